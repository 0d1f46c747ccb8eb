"""What is written is what ``datasets`` and ``webdataset`` read, without loss."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noisesmith.pipeline.prompts.columns import plain_type
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.schema import column_types, row_schema, to_table
from noisesmith.pipeline.sinks import shards
from noisesmith.pipeline.sinks.header import VERSION
from noisesmith.pipeline.sinks.reader import read_tar
from noisesmith.pipeline.sinks.samples import from_sample_json, sample_json, text_columns
from tests.sinks.conftest import COLUMNS, PROVENANCE, WITH_FIRST, Run, png, result


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def load(kind: str, folder: Path) -> Any:
    extension = {"parquet": "parquet", "webdataset": "tar"}[kind]
    place = {"parquet": "data", "webdataset": "tars"}[kind]
    return datasets.load_dataset(kind, data_files=str(folder / place / f"*.{extension}"), split="train")


class TestParquet:
    def test_load_dataset_gives_images_and_every_column_in_order(self, make_run: Callable[..., Run]) -> None:
        run = make_run().write_all()
        data = load("parquet", run.dir)
        assert data.column_names == COLUMNS
        assert isinstance(data.features["image"], datasets.Image)
        assert isinstance(data.features["image_initial"], datasets.Image)
        assert data["id"][:] == [row.id for row in run.rows]
        assert len(set(data["id"])) == 10
        last = data[9]
        assert last["image"].size == (8, 6)
        assert last["image"].getpixel((0, 0)) == (9, 0, 7)
        assert last["topic"] == "pets"
        assert last["n"] == 9

    def test_values_are_exact(self, make_run: Callable[..., Run]) -> None:
        run = make_run().write_all()
        row = load("parquet", run.dir)[1]
        assert row["scores"] == [0.101, 0.75]
        assert row["score_initial"] == 0.101
        assert row["judge_eye"] == 0.1 + 0.2
        assert row["judge_eye_initial"] is None
        assert row["run_seed"] == 2**63 - 1
        assert row["recipe"] == {
            "method": "noise_diffusion",
            "seed": 7,
            "shape": [4, 8, 8],
            "rounds": [1],
            "gammas": [0.1 + 0.2],
            "indices": [1],
            "candidates": 50,
            "steps": 2,
            "batch_size": 8,
            "digest": result(run.rows[1]).recipe.digest,
        }
        assert row["noise"]["ks"] == 1 / 3

    def test_a_stored_noise_is_in_both_forms(self, make_run: Callable[..., Run]) -> None:
        run = make_run(2, optimizer={"method": "pgd"})
        writer = run.writer()
        for row in run.rows:
            writer.put(replace(result(row), noise_fp16=bytes([row.index, 255, 0])))
        assert load("parquet", run.dir)["noise_fp16"] == [b"\x00\xff\x00", b"\x01\xff\x00"]
        (tar,) = (run.dir / "tars").glob("*.tar")
        noises = [row["noise_fp16"] for row in read_tar(tar, ["noise_fp16"], ["recipe"])]
        assert noises == [b"\x00\xff\x00", b"\x01\xff\x00"]

    def test_layout_is_that_of_datasets_own_writer(self, make_run: Callable[..., Run], tmp_path: Path) -> None:
        ours = make_run(4).write_all().dir / "data" / "train-00000-of-00001.parquet"
        theirs = tmp_path / "theirs.parquet"
        datasets.Dataset.from_parquet(str(ours)).to_parquet(theirs)
        assert layout(ours) == layout(theirs)

    def test_row_groups_close_at_the_limit(self, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 1)
        run = make_run(4).write_all()
        assert pq.read_metadata(run.dir / "data" / "train-00000-of-00001.parquet").num_row_groups == 4

    def test_first_images_are_left_out_when_not_asked_for(self, make_run: Callable[..., Run]) -> None:
        run = make_run(output={"image_initial": False}).write_all()
        columns = [name for name in COLUMNS if not name.startswith("image_initial")]
        assert load("parquet", run.dir).column_names == columns
        with tarfile.open(run.dir / "tars" / "train-00000-of-00003.tar") as tar:
            assert not [name for name in tar.getnames() if "initial" in name]


def layout(path: Path) -> Any:
    """Everything about the layout of a Parquet file except its offsets and sizes."""
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    columns = [
        {
            "path": column.path_in_schema,
            "compression": column.compression,
            "encodings": sorted(column.encodings),
            "dictionary": column.has_dictionary_page,
            "index": (column.has_offset_index, column.has_column_index),
        }
        for group in groups
        for column in map(group.column, range(group.num_columns))
    ]
    notes = {name: value for name, value in file.metadata.metadata.items() if name != b"ARROW:schema"}
    return file.schema_arrow, columns, notes, file.metadata.format_version


class TestWebDataset:
    def test_every_sample_decodes(self, make_run: Callable[..., Run]) -> None:
        run = make_run(output=WITH_FIRST).write_all()
        urls = [str(path) for path in sorted((run.dir / "tars").glob("*.tar"))]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
        assert [sample["__key__"] for sample in samples] == [row.id for row in run.rows]
        for sample, row in zip(samples, run.rows, strict=True):
            assert np.array_equal(np.asarray(sample["png"]), np.asarray(PIL.Image.open(io.BytesIO(png(row.index)))))
            assert sample["initial.png"].size == (8, 6)
            assert sample["txt"] == row.prompt
            assert sample["json"]["id"] == row.id
            assert list(sample["json"]) == [
                name for name in COLUMNS if name not in ("prompt", "image", "image_initial")
            ]

    def test_load_dataset_reads_the_tars(self, make_run: Callable[..., Run]) -> None:
        run = make_run(output=WITH_FIRST).write_all()
        data = load("webdataset", run.dir)
        assert data["__key__"][:] == load("parquet", run.dir)["id"][:] == [row.id for row in run.rows]
        assert data[3]["png"].size == data[3]["initial.png"].size == (8, 6)
        assert data[3]["txt"] == run.rows[3].prompt
        assert json.loads(data[3]["json"]["recipe"])["gammas"] == [0.1 + 0.2]

    def test_load_dataset_reads_tars_whose_first_rows_kept_their_first_image(
        self, make_run: Callable[..., Run]
    ) -> None:
        """Its types are inferred from five samples, in which every list of γ is empty."""
        run = make_run(8, output={"rows_per_shard": 8})
        writer = run.writer()
        for row in run.rows:
            made = result(row)
            kept_first = replace(made, recipe=replace(made.recipe, gammas=(), indices=()))
            writer.put(kept_first if row.index < 6 else made)
        recipes = [json.loads(sample["recipe"]) for sample in load("webdataset", run.dir)["json"]]
        assert [recipe["gammas"] for recipe in recipes] == [[]] * 6 + [[0.1 + 0.2]] * 2

    def test_the_same_rows_give_the_same_bytes(self, make_run: Callable[..., Run], tmp_path: Path) -> None:
        run = make_run(4)
        tables = [to_table(result(row), PROVENANCE, run.writer().writer.schema) for row in run.rows]
        for name in ("a.tar", "b.tar"):
            with (tmp_path / name).open("wb") as file, shards.tar_file(file, ["recipe", "topic"], COLUMNS) as add:
                for table in tables:
                    add(table)
        assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()

    def test_what_json_cannot_hold_becomes_text_or_null(self) -> None:
        row = {
            "a": float("nan"),
            "b": [1.5, float("inf")],
            "c": date(2026, 1, 2),
            "d": {"e": Decimal("1.10")},
            "f": "ü",
        }
        content = sample_json(row | {"prompt": "p", "image": {}, "recipe": {"gammas": [0.5]}}, ["recipe"])
        plain = {"a": None, "b": [1.5, None], "c": "2026-01-02", "d": {"e": "1.10"}, "f": "ü"}
        assert json.loads(content) == plain | {"recipe": '{"gammas": [0.5]}'}

    def test_json_text_keeps_numbers_that_are_not_finite(self) -> None:
        content = sample_json({"a": float("nan"), "b": [1.5, float("-inf")], "c": None, "d": "ü"}, ["a", "b", "c", "d"])
        assert json.loads(content) == {"a": "NaN", "b": "[1.5, -Infinity]", "c": "null", "d": '"ü"'}

    @pytest.mark.parametrize("content", [b"[]", b"{", b'{"recipe": 5}', b'{"recipe": "{"}', b'{"noise_fp16": [1]}'])
    def test_damaged_json_is_an_error_that_a_reader_expects(self, content: bytes) -> None:
        with pytest.raises(ValueError, match=r"."):
            from_sample_json(content, ["recipe"])


SCALARS = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    pa.date32(): st.dates(),
    pa.date64(): st.dates(),
    pa.time32("s"): st.times().map(lambda time: time.replace(microsecond=0)),
    pa.duration("s"): st.integers(-(10**6), 10**6).map(lambda n: timedelta(seconds=n)),
    pa.timestamp("s", "UTC"): st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)).map(
        lambda time: time.replace(microsecond=0, tzinfo=UTC)
    ),
    pa.float16(): st.floats(width=16, allow_nan=False),
    pa.decimal32(7, 3): st.integers(-(10**6), 10**6).map(lambda n: Decimal(n).scaleb(-3)),
    pa.timestamp("us"): st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    pa.decimal128(12, 3): st.integers(-(10**9), 10**9).map(lambda n: Decimal(n).scaleb(-3)),
    pa.null(): st.none(),
}


@st.composite
def typed_columns(draw: st.DrawFn) -> tuple[pa.DataType, list[Any]]:
    """A type that a corpus column may have, and values of it."""
    kind = draw(st.sampled_from(list(SCALARS)))
    values = st.one_of(st.none(), SCALARS[kind])
    shape = draw(st.sampled_from(["plain", "list", "struct", "list of struct", "fixed list"]))
    if "struct" in shape:
        kind, values = (
            pa.struct([("k", kind), ("s", pa.string())]),
            st.fixed_dictionaries({"k": values, "s": st.just("x")}),
        )
    if "list" in shape:
        size = 2 if shape == "fixed list" else None
        kind = pa.list_(kind, size or -1)
        values = st.lists(values, min_size=size or 0, max_size=size or 3)
    return kind, draw(st.lists(st.one_of(st.none(), values), min_size=3, max_size=3))


@given(typed_columns())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_extra_columns_survive_parquet_whatever_their_type(make_run: Callable[..., Run], column: Any) -> None:
    kind, values = column
    kind = plain_type(kind)
    run = make_run(3)
    schema = row_schema(run.config, run.corpus.extra_schema).append(pa.field("extra", kind))
    rows = [
        Row(row.index, row.id, row.prompt, {**row.extra, "extra": value})
        for row, value in zip(run.rows, values, strict=True)
    ]
    buffer = io.BytesIO()
    with shards.parquet_file(buffer, schema) as add:
        for row in rows:
            add(to_table(result(row), PROVENANCE, schema))
    back = pq.read_table(buffer)
    assert back["extra"].to_pylist() == values
    assert column_types(back.schema) == column_types(schema)
    for row in to_table(result(rows[0]), PROVENANCE, schema).to_pylist():
        text = text_columns(schema.names, VERSION)
        sample = json.loads(sample_json(row, text))
        assert sample.keys() == set(schema.names) - {"prompt", "image", "image_initial"}
        assert all(isinstance(sample[name], str) for name in text)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60).filter(str.strip))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_prompt_reaches_a_name(make_run: Callable[..., Run], tmp_path: Path, prompt: str) -> None:
    run = make_run(1)
    schema = row_schema(run.config, run.corpus.extra_schema)
    row = Row(0, "00000000-0123abcd", f"../../{prompt}", {"topic": prompt, "n": 1})
    with (tmp_path / "x.tar").open("wb") as file, shards.tar_file(file, ["recipe"], schema.names) as add:
        add(to_table(result(row), PROVENANCE, schema))
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert {name.partition(".")[0] for name in tar.getnames()} == {"00000000-0123abcd"}
        text = tar.extractfile("00000000-0123abcd.txt")
        assert text is not None
        assert text.read().decode() == f"../../{prompt}"
