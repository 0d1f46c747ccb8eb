"""Other programs open a run's files, and find in each of them the values of the corpus, whatever is null first."""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from huggingface_hub import DatasetCard
from pyarrow.dataset import dataset

from noisesmith.pipeline.records import Recipe
from noisesmith.pipeline.report import write_report
from noisesmith.pipeline.schema import schema_of
from noisesmith.pipeline.sinks import read_rows, verify_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.samples import tar_features
from tests.sinks.conftest import PROVENANCE, Run, result

Rows = list[dict[str, Any]]
COLUMN_TYPES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), ["", "naïve 👁 \u2028 \"'\\", "null", "12e5"]),
    "integer": (pa.int64(), [2**53 + 1, -(2**63), 2**63 - 1, 0]),
    "small": (pa.int8(), [-128, 127, 0, 1]),
    "unsigned": (pa.uint64(), [2**64 - 1, 0, 2**53 + 1, 1]),
    "number": (pa.float64(), [0.1, -0.0, 1e308, 5e-324]),
    "special": (pa.float64(), [math.nan, math.inf, -math.inf, 1.0]),
    "single": (pa.float32(), [0.5, 2.0**-149, math.nan, -1.0]),
    "flag": (pa.bool_(), [True, False, True, False]),
    "day": (pa.date32(), [date(1900, 1, 1), date(2026, 2, 28), date(1, 1, 1), date(9999, 12, 31)]),
    "moment": (pa.timestamp("us"), [datetime(2026, 1, 2, 3, 4, 5, 678901), datetime(1970, 1, 1)] * 2),
    "instant": (pa.timestamp("ms", "UTC"), [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)] * 4),
    "price": (pa.decimal128(12, 3), [Decimal("1.100"), Decimal("-0.001"), Decimal("0.000"), Decimal("123456789.125")]),
    "list": (pa.list_(pa.int64()), [[], [2**53 + 1, None], [1], []]),
    "words": (pa.list_(pa.string()), [[], ["a", None, ""], ["b"], []]),
    "struct": (
        pa.struct([("a", pa.string()), ("b", pa.list_(pa.float64()))]),
        [{"a": None, "b": []}, {"a": "x", "b": [0.1]}, {"a": "", "b": None}, {"a": "ü", "b": [None]}],
    ),
    "nested": (
        pa.list_(pa.struct([("k", pa.int64()), ("v", pa.list_(pa.string()))])),
        [[], [{"k": None, "v": []}], [{"k": 2**60, "v": ["x"]}], [{"k": 1, "v": None}]],
    ),
    "nothing": (pa.null(), [None] * 4),
}
NULLS = 6  # one more than `datasets` reads before it decides about types
ROWS = NULLS + 4


def with_nulls(values: list[Any], place: str) -> list[Any]:
    """Ten values: the four given ones, and nulls before, behind or between them."""
    nulls = [None] * NULLS
    match place:
        case "null first":
            return [*nulls, *values]
        case "null last":
            return [*values, *nulls]
        case _:
            return [nulls[0], values[0], nulls[1], *values[1:3], *nulls[2:], values[3]]


@pytest.fixture(params=["null first", "null last", "between"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run over a Parquet corpus with every type of column, whose judge could tell nothing at first."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    columns: dict[str, pa.Array] = {"prompt": pa.array([f"prompt {n}" for n in range(ROWS)])}
    for name, (kind, values) in COLUMN_TYPES.items():
        columns[name] = pa.array(with_nulls(values, request.param), type=kind)
    pq.write_table(pa.table(columns), tmp_path / "corpus.parquet")
    run = Run(tmp_path, [], corpus={"source": str(tmp_path / "corpus.parquet")}, output={"rows_per_shard": ROWS - 1})
    writer = run.writer()
    seen = with_nulls([0.25, 0.5, 0.75, 1.0], request.param)
    for row, score in zip(run.rows, seen, strict=True):
        writer.put(replace(result(row), judges={"eye": (score, score)}))
    return run


def expected(run: Run) -> Rows:
    """The corpus's own columns, and the judge's: what no reader may change."""
    rows = []
    corpus = pq.read_table(run.config.corpus[0].source).drop_columns(["prompt"]).to_pylist()
    for row, extra in zip(read_rows(run.dir, ["id", "judge_eye_initial", "judge_eye"]), corpus, strict=True):
        rows.append({**row, **extra})
    return rows


def exact(value: Any) -> Any:
    """A value in a form in which NaN equals itself, −0 differs from 0, and 1 from 1.0 and True."""
    if isinstance(value, dict):
        return {name: exact(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [exact(item) for item in value]
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC)
    if isinstance(value, float | datetime | Decimal | bool | int):
        return (type(value).__name__, repr(value) if isinstance(value, float) else str(value))
    return value


def parquet_files(run: Run) -> list[str]:
    return [str(path) for path in sorted((run.dir / "data").glob("*.parquet"))]


def tar_files(run: Run) -> list[str]:
    return [str(path) for path in sorted((run.dir / "tars").glob("*.tar"))]


def with_datasets(run: Run) -> Rows:
    return list(datasets.load_dataset("parquet", data_files=parquet_files(run), split="train"))


def with_pandas(run: Run) -> Rows:
    frame = pd.concat([pd.read_parquet(path, dtype_backend="pyarrow") for path in parquet_files(run)])
    return pa.Table.from_pandas(frame, preserve_index=False).to_pylist()


def with_polars(run: Run) -> Rows:
    return pl.read_parquet(parquet_files(run)).to_dicts()


def with_duckdb(run: Run) -> Rows:
    with duckdb.connect() as connection:
        relation = connection.read_parquet(parquet_files(run))
        return relation.to_arrow_table().to_pylist()


@pytest.mark.parametrize("read", [with_datasets, with_pandas, with_polars, with_duckdb])
def test_parquet_holds_the_values_of_the_corpus(run: Run, read: Callable[[Run], Rows]) -> None:
    rows = read(run)
    assert [row["prompt"] for row in rows] == [row.prompt for row in run.rows]
    for row, values in zip(rows, expected(run), strict=True):
        found = {name: row[name] for name in values}
        assert exact(found) == exact(values)


def as_json(value: Any) -> Any:
    """What :func:`json.loads` can give for a value: dates and decimals are text."""
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return str(value) if isinstance(value, date | Decimal) else value


def tar_with_datasets(run: Run) -> Rows:
    return list(datasets.load_dataset("webdataset", data_files=tar_files(run), split="train"))


def tar_with_webdataset(run: Run) -> Rows:
    return list(webdataset.WebDataset(tar_files(run), shardshuffle=False).decode("pil"))


@pytest.mark.parametrize("read", [tar_with_datasets, tar_with_webdataset])
def test_tars_hold_the_same_values_as_json_text(run: Run, read: Callable[[Run], Rows]) -> None:
    samples = read(run)
    assert [sample["txt"] for sample in samples] == [row.prompt for row in run.rows]
    names = read_manifest(run.dir).header.text_columns
    own = {"recipe", "prompt_tokens_cut", "parent_id"}
    assert set(names) == {*own, "judge_eye_initial", "judge_eye", *COLUMN_TYPES}
    for sample, values in zip(samples, expected(run), strict=True):
        for name in set(names) - own:
            assert exact(json.loads(sample["json"][name])) == exact(as_json(values[name])), name
        assert json.loads(sample["json"]["recipe"])["method"] == "noise_diffusion"
        assert sample["json"]["score"] == 0.75


def test_tars_are_typed_as_the_features_say(run: Run) -> None:
    header = read_manifest(run.dir).header
    in_tars = {name: header.columns[name] for name in header.tar_columns}
    schema = schema_of(in_tars, run.corpus.extra_schema)
    inferred = datasets.load_dataset("webdataset", data_files=tar_files(run), split="train").features
    assert tar_features(schema, header.text_columns) == inferred


def test_whole_folders_are_read_without_patterns(run: Run) -> None:
    """Each folder has one kind of file, as readers of a folder expect."""
    prompts = [row.prompt for row in run.rows]
    data, tars = run.dir / "data", run.dir / "tars"
    assert list(pd.read_parquet(data)["prompt"]) == prompts
    assert dataset(data).to_table(["prompt"])["prompt"].to_pylist() == prompts
    assert datasets.load_dataset("webdataset", data_dir=str(tars), split="train")["txt"][:] == prompts
    assert datasets.load_dataset(str(data), split="train")["prompt"][:] == prompts
    kinds: set[str] = set()
    for path in tars.iterdir():
        with tarfile.open(path) as tar:
            kinds.update(name.partition(".")[2] for name in tar.getnames())
    assert kinds == {"png", "txt", "json"}, "no first image that a trainer would take for one of the data set's"


def test_the_card_states_the_types_of_the_rows(run: Run) -> None:
    write_report(run.dir, run.config, PROVENANCE, {})
    card = DatasetCard.load(run.dir / "README.md").data.to_dict()
    stated = datasets.Features._from_yaml_list(card["dataset_info"]["features"])
    opened = datasets.load_dataset(str(run.dir), split="train")
    assert stated == opened.features == datasets.Features.from_arrow_schema(pq.read_schema(parquet_files(run)[0]))
    assert opened["prompt"][:] == [row.prompt for row in run.rows]


def test_rows_say_how_they_were_sampled_and_which_bytes_their_images_have(run: Run) -> None:
    for row in read_rows(run.dir):
        assert (row["scheduler"], row["guidance_scale"], row["negative_prompt"]) == ("ddim", 7.5, "")
        assert row["image_sha256"] == hashlib.sha256(row["image"]).hexdigest()
        assert row["image_initial_sha256"] == hashlib.sha256(row["image_initial"]).hexdigest()


def test_a_run_of_tars_alone_gives_judges_and_recipes_back(make_run: Callable[..., Run]) -> None:
    run = make_run(output={"formats": ["webdataset"]}).write_all()
    assert verify_run(run.dir, range(10)) == []
    for row, read in zip(run.rows, read_rows(run.dir), strict=True):
        made = result(row)
        assert (read["judge_eye_initial"], read["judge_eye"]) == made.judges["eye"]
        assert Recipe.from_row(read["recipe"]) == made.recipe
        assert (read["topic"], read["n"]) == ("pets", row.index)
