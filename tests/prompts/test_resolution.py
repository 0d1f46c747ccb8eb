"""The size of a row's image: read from two columns of the corpus, taken as it is or mapped to the nearest bucket."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.config import RunConfig, validated
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.prompts.resolution import closest

SDXL = [(1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (1344, 768), (768, 1344), (1536, 640)]
COLUMNS = {"width": "w", "height": "h"}


def config(source: Path, resolution: dict[str, str] | None, buckets: Any = None, **section: Any) -> RunConfig:
    corpus = {"source": str(source), "resolution": resolution, **section}
    return validated({"corpus": corpus, "generators": {"buckets": buckets}}, "config")


def corpus(*given: Any, **section: Any) -> Corpus:
    return open_corpus(config(*given, **section))


def sizes(opened: Corpus) -> list[tuple[int, int] | None]:
    return [row.resolution for row in opened.rows()]


def write_csv(folder: Path, *lines: str, header: str = "prompt,w,h") -> Path:
    path = folder / "prompts.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_a_corpuss_own_columns_change_nothing_unless_they_are_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "a cat,64,96", header="prompt,width,height")
    renamed = {"rename": {"width": "wanted_width", "height": "wanted_height"}}
    without = corpus(path, None, columns=renamed)
    named = corpus(path, {"width": "width", "height": "height"}, columns=renamed)
    assert sizes(without) == [None]
    assert sizes(named) == [(64, 96)]
    assert without.digest == named.digest
    assert dict(without.resolutions) == {}
    assert [row.extra for row in named.rows()] == [{"wanted_width": 64, "wanted_height": 96}]


def test_every_format_gives_the_same_sizes(tmp_path: Path) -> None:
    wanted = [(64, 96), (96, 64), (64, 96)]
    rows = [{"prompt": f"p{n}", "w": width, "h": height} for n, (width, height) in enumerate(wanted)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    floats = [{**row, "w": float(row["w"]), "h": str(row["h"])} for row in rows]  # type: ignore[arg-type]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in floats))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    lines = [f"p{n},{width}.0,{height}" for n, (width, height) in enumerate(wanted)]
    for path in (*sorted(tmp_path.iterdir()), write_csv(tmp_path, *lines)):
        opened = corpus(path, COLUMNS)
        assert sizes(opened) == wanted, path
        assert {size: asked.rows for size, asked in opened.resolutions.items()} == {(64, 96): 2, (96, 64): 1}


def test_a_column_of_several_types_is_read_too(tmp_path: Path) -> None:
    """It is written as JSON text."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "w": 64, "h": 32}\n{"prompt": "b", "w": "96", "h": 32}\n')
    opened = corpus(path, COLUMNS)
    assert opened.as_json == ("w",)
    assert sizes(opened) == [(64, 32), (96, 32)]


def test_sections_without_the_field_have_the_generators_size(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "a cat,64,96")
    plain = tmp_path / "plain.txt"
    plain.write_text("a dog\n")
    sections = [{"source": str(path), "resolution": COLUMNS}, {"source": str(plain)}]
    assert sizes(open_corpus(RunConfig.model_validate({"corpus": sections}))) == [(64, 96), None]


def test_another_size_is_another_corpus(tmp_path: Path) -> None:
    before = corpus(write_csv(tmp_path, "a cat,64,96"), COLUMNS).digest
    assert corpus(write_csv(tmp_path, "a cat,96,96"), COLUMNS).digest != before


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a dog,,64", "corpus.resolution: column 'w' has no value"),
        ("a dog,64,tall", "corpus.resolution: column 'h' holds 'tall'; give it a whole number of pixels above 0"),
        ("a dog,64.5,64", "corpus.resolution: column 'w' holds '64.5'"),
        ("a dog,-64,64", "corpus.resolution: column 'w' holds '-64'"),
        ("a dog,64,0", "corpus.resolution: column 'h' holds '0'"),
        ("a dog,1024000,64", "corpus.resolution: asks for 1024000×64 pixels, and a side has 8 to 16,384"),
        ("a dog,64,4", "corpus.resolution: asks for 64×4 pixels"),
    ],
)
def test_what_is_no_size_is_refused_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(UserError) as refused:
        corpus(write_csv(tmp_path, "a cat,64,64", line), COLUMNS)
    assert str(refused.value).startswith(f"{tmp_path}/prompts.csv: line 3: {problem}")


def test_a_missing_key_and_a_truth_value_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    for row in ({"prompt": "b", "w": 64}, {"prompt": "b", "w": 64, "h": True}):
        path.write_text(json.dumps({"prompt": "a", "w": 64, "h": 64}) + "\n" + json.dumps(row) + "\n")
        with pytest.raises(UserError, match=r"line 2: corpus\.resolution: column 'h' "):
            corpus(path, COLUMNS)


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus\.resolution: .* has no column 'W'; its columns are 'w', 'h'"):
        corpus(write_csv(tmp_path, "a cat,64,64"), {"width": "W", "height": "h"})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"columns": {"drop": ["h"]}}, "columns leaves out 'h', which resolution.height names; keep that column"),
        ({"column": "w"}, "resolution.width names 'w', which is the prompt"),
        ({"resolution": None, "buckets": [[64, 64]]}, "generators.buckets: no row asks for a size"),
        ({"buckets": [[64, 64], [96, 64], [64, 64]]}, "lists [64, 64] twice; remove one"),
        ({"buckets": []}, "generators.buckets"),
        ({"buckets": [[64, 4]]}, "generators.buckets"),
        ({"buckets": [[64]]}, "generators.buckets"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    given = {"resolution": COLUMNS, "buckets": None} | changes
    with pytest.raises(UserError) as refused:
        config(tmp_path / "prompts.csv", **given)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_rows_get_the_nearest_bucket(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "a,4000,6000", "b,100,100", "c,1920,1080", "d,1216,832")
    opened = corpus(path, COLUMNS, SDXL)
    assert sizes(opened) == [(832, 1216), (1024, 1024), (1344, 768), (1216, 832)]
    assert [row.extra["w"] for row in opened.rows()] == [4000, 100, 1920, 1216]
    assert [asked.where.rpartition(": ")[2] for asked in opened.resolutions.values()] == [
        f"line {line}" for line in (2, 3, 4, 5)
    ]


SIDES = st.integers(1, 20_000)


@given(st.tuples(SIDES, SIDES))
def test_the_nearest_bucket_has_the_smallest_difference_of_log_ratios(wanted: tuple[int, int]) -> None:
    def departure(bucket: tuple[int, int]) -> float:
        return abs(math.log(wanted[0] / wanted[1]) - math.log(bucket[0] / bucket[1]))

    found = closest(wanted, SDXL)
    assert departure(found) <= min(map(departure, SDXL)) + 1e-12
    # A picture that is turned gets the bucket that is turned.
    assert closest(wanted[::-1], [bucket[::-1] for bucket in SDXL]) == found[::-1]


def test_of_equal_ratios_the_closest_area_counts() -> None:
    squares = [(512, 512), (1024, 1024), (2048, 2048)]
    assert closest((900, 900), squares) == (1024, 1024)
    assert closest((512, 512), squares) == (512, 512)
