"""``imagefolder``: what ``datasets`` and the loader of diffusers' scripts find in it."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets import load_dataset
from torch.utils.data import DataLoader

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.export import imagefolder
from noisesmith.pipeline.export.metadata import MetadataFile
from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.sinks import read_rows
from tests.export.conftest import add_table, finished, lines, write, write_run
from tests.sinks.conftest import Run


def metadata(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_row_is_there_with_its_bytes_scores_and_judges(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = write(run, "imagefolder", out)
    assert done.rows == {"train": 30}
    expected = {row["id"]: row for row in read_rows(run.dir)}
    rows = metadata(out / "train")
    assert sorted(row["id"] for row in rows) == sorted(expected)
    for row in rows:
        original = expected[row["id"]]
        assert (out / "train" / row["file_name"]).read_bytes() == original["image"]
        assert row["text"] == original["prompt"]
        assert json.loads(row["scores"]) == original["scores"]
        for name in ("score", "score_initial", "judge_eye", "run_seed", "width", "generator_revision", "topic", "n"):
            assert row[name] == original[name]
    assert "Of 30 rows of the run, 30 are here" in (out / "README.md").read_text()
    assert not list(out.rglob("*.txt"))


def test_datasets_opens_the_splits_whatever_is_null(run: Run, tmp_path: Path) -> None:
    """A row whose judge is null comes first in the run, and one split may have one row."""
    out = tmp_path / "out"
    write(run, "imagefolder", out, where="n > 2", splits={"val": 0.01, "test": 0.3})
    expected = {row["id"]: row for row in read_rows(run.dir, ["id", "score", "judge_eye", "topic"])}
    for opened in (load_dataset("imagefolder", data_dir=str(out)), load_dataset(str(out))):
        assert set(opened) == {"train", "validation", "test"}
        assert sum(split.num_rows for split in opened.values()) == 27
        for split in opened.values():
            assert split.column_names[:2] == ["image", "text"]
            for row in split:
                assert row["score"] == expected[row["id"]]["score"]
                assert row.get("judge_eye") == expected[row["id"]]["judge_eye"] or "judge_eye" not in row


def test_streams(run: Run, tmp_path: Path) -> None:
    write(run, "imagefolder", tmp_path / "out")
    stream = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train", streaming=True)
    rows = {row["id"]: row for row in stream}
    for original in read_rows(run.dir, ["id", "image"]):
        pixels = PIL.Image.open(io.BytesIO(original["image"])).tobytes()
        assert rows[original["id"]]["image"].tobytes() == pixels


def test_first_images_are_a_column_of_their_own(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(run, "imagefolder", out, first_images=True)
    opened = load_dataset("imagefolder", data_dir=str(out), split="train")
    assert opened.column_names[:3] == ["image", "text", "image_initial"]
    expected = {row["id"]: row["image_initial"] for row in read_rows(run.dir, ["id", "image_initial"])}
    for row in metadata(out / "train"):
        assert (out / "train" / row["image_initial_file_name"]).read_bytes() == expected[row["id"]]


def test_the_steps_of_diffusers_text_to_image_scripts(run: Run, tmp_path: Path) -> None:
    """``train_text_to_image.py`` globs ``--train_data_dir``, and takes columns by their place."""
    out = tmp_path / "out"
    write(run, "imagefolder", out, splits={"val": 0.1})
    dataset = load_dataset("imagefolder", data_files={"train": f"{out}/train/**"})["train"]
    image_column, caption_column = dataset.column_names[:2]

    def preprocess(examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {
            "pixel_values": [np.asarray(image.convert("RGB").resize((16, 16))) for image in examples[image_column]],
            "caption": examples[caption_column],
        }

    loader: DataLoader[Any] = DataLoader(dataset.with_transform(preprocess), batch_size=4, num_workers=2, shuffle=True)
    seen = []
    for batch in loader:
        assert batch["pixel_values"].shape[1:] == (16, 16, 3)
        seen += batch["caption"]
    assert len(seen) == dataset.num_rows
    prompts = {row["prompt"] for row in read_rows(run.dir, ["prompt"])}
    assert set(seen) <= prompts


@pytest.mark.parametrize(("name", "extension"), [("jpeg", "jpg"), ("webp", "webp")])
def test_other_image_formats_show_the_same_picture(run: Run, tmp_path: Path, name: str, extension: str) -> None:
    out = tmp_path / "out"
    write(run, "imagefolder", out, image_format=name, image_quality=90)
    originals = {row["id"]: row["image"] for row in read_rows(run.dir, ["id", "image"])}
    for row in metadata(out / "train"):
        path = out / "train" / row["file_name"]
        assert path.suffix == f".{extension}"
        image, original = PIL.Image.open(path), PIL.Image.open(io.BytesIO(originals[row["id"]]))
        assert image.format == name.upper()
        assert np.abs(np.asarray(image, int) - np.asarray(original, int)).mean() < 5


def test_names_that_loaders_give_a_meaning_are_changed(tmp_path: Path) -> None:
    corpus = [{"prompt": f"p{n}", "text": "t", "file_name": "f", "a_file_name": "g", "text_": "u"} for n in range(3)]
    run = write_run(tmp_path, corpus)
    done = write(run, "imagefolder", tmp_path / "out")
    row = metadata(tmp_path / "out" / "train")[0]
    assert (row["text"], row["text__"], row["text_"]) == ("p0", "t", "u")
    assert (row["file_name_"], row["a_file_name_"]) == ("f", "g")
    assert "text is named text__" in done.notes[0]
    assert load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train").column_names[0] == "image"


def test_types_do_not_depend_on_the_first_megabytes(tmp_path: Path) -> None:
    """``datasets`` reads 10 MB to infer the types, and here the first value comes behind them."""
    filler = "x" * 1_900
    corpus = [{"prompt": f"{n} {filler}", "late": n / 2 if n == 5_999 else None} for n in range(6_000)]
    image = finished(Row(0, "x", "x")).image
    path = tmp_path / "metadata.jsonl"
    file = MetadataFile(path)
    (tmp_path / "a.png").write_bytes(image)
    for line in corpus:
        file.add({"file_name": "a.png", "text": line["prompt"], "late": line["late"]})
    file.close(set())
    assert path.stat().st_size > 10 << 20
    opened = load_dataset("imagefolder", data_dir=str(tmp_path), split="train").remove_columns("image")
    assert opened.num_rows == 6_000
    assert sum(value is not None for value in opened["late"]) == 1
    assert opened.features["late"].dtype == "float64"


def test_a_column_without_a_value_in_one_split_is_left_out_of_all(tmp_path: Path) -> None:
    corpus = [{"prompt": f"prompt {n}", "rare": "x" if n == 0 else None} for n in range(6)]
    run = write_run(tmp_path, corpus)
    done = write(run, "imagefolder", tmp_path / "out", splits={"val": 0.5})
    assert done.notes == ["Columns without a value in a whole split were left out: prompt_tokens_cut, rare."]
    assert all("rare" not in row for split in ("train", "val") for row in metadata(tmp_path / "out" / split))
    assert load_dataset(str(tmp_path / "out"))["train"].num_rows == 3


def test_folders_hold_a_limited_number_of_images(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagefolder, "PER_FOLDER", 8)
    write(run, "imagefolder", tmp_path / "out")
    counts = [len(list(folder.iterdir())) for folder in sorted((tmp_path / "out/train").glob("0*"))]
    assert counts == [8, 8, 8, 6]
    assert load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train").num_rows == 30


def test_columns_of_side_tables_are_exported(tmp_path: Path) -> None:
    run = write_run(tmp_path, lines(6))
    add_table(run, "sharp", pa.schema([("sharp", pa.float64())]), lambda n: {"sharp": n / 8})
    write(run, "imagefolder", tmp_path / "out", where="sharp > 0.3")
    assert [row["sharp"] for row in metadata(tmp_path / "out/train")] == [3 / 8, 4 / 8, 5 / 8]


def test_a_run_of_tars_is_exported_like_one_of_parquet_files(tmp_path: Path) -> None:
    def exported(name: str, formats: list[str]) -> dict[str, str]:
        (tmp_path / name).mkdir()
        output = {"formats": formats, "tar_image_initial": "webdataset" in formats}
        run = write_run(tmp_path / name, lines(6), output=output)
        write(run, "imagefolder", tmp_path / name / "out", splits={"val": 0.3}, top_k=1, by="judge_eye")
        files = (tmp_path / name / "out").rglob("*.*")
        return {
            str(path.relative_to(tmp_path / name)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.name != "README.md"
        }

    assert exported("parquet", ["parquet"]) == exported("tar", ["webdataset"])


def test_first_images_that_were_not_kept_are_refused(tmp_path: Path) -> None:
    def without(row: Row) -> Result:
        return replace(finished(row), image_initial=None)

    run = write_run(tmp_path, lines(2), without, output={"image_initial": False})
    with pytest.raises(UserError, match=r"--first-images: .* has kept no first images; leave it out"):
        write(run, "imagefolder", tmp_path / "out", first_images=True)
