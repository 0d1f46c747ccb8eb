"""``output.images``: further images of a row, in a list next to its scores."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pyarrow.parquet as pq
import pytest

from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.sinks import read_rows, repair_run, verify_run
from tests.sinks.conftest import Run, png, result

FIRST = "data/train-00000-of-00003.parquet"


def with_rounds(row: Row) -> Result:
    """A row with three images, of which the second is a preview."""
    made = replace(result(row), scores=(0.1, 0.2, 0.75), steps=(2, 1, 2), evaluations=(2.0, 1.0, 2.0))
    return replace(made, images=(made.image_initial, None, made.image))


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    made = make_run(output={"images": "all"})
    writer = made.writer()
    for row in made.rows:
        writer.put(with_rounds(row))
    return made


def test_every_image_is_next_to_its_score(run: Run) -> None:
    assert verify_run(run.dir, range(10)) == []
    for row in read_rows(run.dir):
        assert len(row["round_images"]) == len(row["scores"]) == 3
        assert row["round_images"] == [row["image_initial"], None, row["image"]]
    (column,) = {str(pq.read_schema(path).field("round_images").type) for path in run.dir.glob("data/*.parquet")}
    assert column.startswith("list<element: struct<bytes: binary, path: string>")


def test_load_dataset_gives_pictures(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files = str(run.dir / "data" / "*.parquet")
    streamed = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    for rows in (datasets.load_dataset("parquet", data_files=files, split="train"), streamed):
        assert rows.features["round_images"] == datasets.List(datasets.Image())
        first, preview, kept = next(iter(rows))["round_images"]
        assert preview is None
        assert first.getpixel((0, 0)) == PIL.Image.open(io.BytesIO(png(1000))).getpixel((0, 0))
        assert kept.getpixel((0, 0)) == PIL.Image.open(io.BytesIO(png(0))).getpixel((0, 0))


def test_tars_hold_none_of_them(run: Run) -> None:
    for path in run.dir.glob("tars/*.tar"):
        with tarfile.open(path) as tar:
            kinds = {name.partition(".")[2] for name in tar.getnames()}
            (name, *_) = [name for name in tar.getnames() if name.endswith(".json")]
            content = tar.extractfile(name)
            assert content is not None
            columns = json.load(content)
        assert kinds == {"png", "txt", "json"}
        assert "round_images" not in columns


def test_tars_cannot_rebuild_the_rows_of_a_lost_parquet_file(run: Run) -> None:
    (run.dir / FIRST).unlink()
    _, state = repair_run(run.config, run.corpus, print)
    missing = [row for row in run.rows if row.index not in state.done]
    assert [row.index for row in missing] == [0, 1, 2, 3]
    writer = run.writer()
    for row in missing:
        writer.put(with_rounds(row))
    assert verify_run(run.dir) == []


def test_a_damaged_one_is_named(make_run: Callable[..., Run]) -> None:
    run = make_run(rows=1, output={"images": "all"})
    run.writer().put(replace(with_rounds(run.rows[0]), images=(png(0), png(1)[:-30], png(2))))
    (problem,) = verify_run(run.dir)
    assert "round_images[1] does not decode" in problem


@pytest.mark.parametrize("images", ["worst", "all"])
def test_tars_alone_are_refused(tmp_path: Path, images: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"corpus: {{source: p.txt}}\noutput: {{images: {images}, formats: [webdataset]}}\n")
    with pytest.raises(UserError, match=f"output.*images: {images} needs parquet among the formats"):
        load_config(path)


def test_a_row_without_them_is_an_error(make_run: Callable[..., Run]) -> None:
    run = make_run(output={"images": "worst"})
    with pytest.raises(ValueError, match="comes without its round_images, which this run keeps"):
        run.writer().put(result(run.rows[0]))


def test_ends_is_the_same_as_nothing(make_run: Callable[..., Run]) -> None:
    plain: dict[str, Any] = {"formats": ["parquet"]}
    assert make_run(output=plain | {"images": "ends"}).config.digest() == make_run(output=plain).config.digest()
