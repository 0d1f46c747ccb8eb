"""What every reader of tables promises: a cell's text, or a value and its type, arrive as they are in the file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.errors import UserError
from tests.prompts.corpora import FILES_ONCE, corpus, write

# Texts that other readers of tables change, next to any text and any number.
TRICKY = (
    "007", "-0", "+1", "1.0", "1.50", "12e5", "1e5", "1e-05", "1e400", "nan", "NaN", "inf", "NA", "null", "None",
    "True", "False", "true", "TRUE", "0x1F", "1_000", "1,5", " 7", "7 ", "1234567890123456789", "9223372036854775808",
    "0.1", "2024-01-01", "a\nb", "a\r\nb", 'say "hi"', '"', "'", ";", "\t", "|", "#", "=1+1", "é", "\u200b", "٣",
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NUMBER = st.one_of(st.integers(-(10**20), 10**20), st.floats(), st.booleans()).map(str)
CELL = st.one_of(st.sampled_from(TRICKY), NUMBER, TEXT).filter(lambda text: not text.startswith("\ufeff"))
COLUMN = st.one_of(
    st.lists(CELL, min_size=4, max_size=4),
    st.lists(st.integers().map(str), min_size=4, max_size=4),
    st.lists(st.floats(allow_nan=False).map(repr), min_size=4, max_size=4),
    st.lists(st.sampled_from(["True", "False", ""]), min_size=4, max_size=4),
)
COLUMNS = st.lists(COLUMN, min_size=1, max_size=3)


def _with_csv_module(rows: list[list[str]], delimiter: str) -> str:
    sheet = io.StringIO(newline="")
    csv.writer(sheet, delimiter=delimiter).writerows(rows)
    return sheet.getvalue()


def _with_pandas(rows: list[list[str]], delimiter: str) -> str:
    frame = pd.DataFrame(rows[1:], columns=rows[0], dtype=object)
    return str(frame.to_csv(sep=delimiter, index=False))


def _texts(path: Path) -> list[list[str | None]]:
    """Each row's columns as the text that their values print as."""
    rows = []
    for row in corpus(path).rows():
        rows.append([None if value is None else str(value) for value in row.extra.values()])
    return rows


@pytest.mark.parametrize("written", [_with_csv_module, _with_pandas])
@pytest.mark.parametrize(("name", "delimiter"), [("p.csv", ","), ("p.tsv", "\t"), ("p.csv", ";")])
@given(columns=COLUMNS)
@FILES_ONCE
def test_the_text_of_every_cell_can_be_recovered(
    tmp_path: Path, written: Callable[..., str], name: str, delimiter: str, columns: list[list[str]]
) -> None:
    header = ["prompt", *(f"c{number}" for number in range(len(columns)))]
    cells = [list(row) for row in zip(*columns, strict=True)]
    rows = [header, *([f"a cat {number}", *row] for number, row in enumerate(cells))]
    path = write(tmp_path / name, written(rows, delimiter))
    if any("\r" in cell.replace("\r\n", "") for row in cells for cell in row) and written is _with_pandas:
        with suppress(UserError):  # pandas puts no quotes around a lone carriage return, so the file is ambiguous
            _texts(path)
        return
    assert _texts(path) == [[cell or None for cell in row] for row in cells]


JSON_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=6,
)
ALIKE = st.one_of(
    *(st.lists(kind, min_size=3, max_size=3) for kind in (JSON_VALUE, st.integers(), st.floats(-9, 9), TEXT)),
    st.lists(st.one_of(st.integers(), st.floats(-9, 9)), min_size=3, max_size=3),
    st.lists(st.lists(st.integers(-9, 9)), min_size=3, max_size=3),
)


def _filled(value: Any) -> Any:
    """A value without the keys that are null: an object that lacks a key arrives with a null there."""
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
@given(values=ALIKE)
@FILES_ONCE
def test_json_values_arrive_equal_or_as_their_json_text(tmp_path: Path, name: str, values: list[Any]) -> None:
    records = [{"prompt": f"a cat {number}", "x": value} for number, value in enumerate(values)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    opened = corpus(write(tmp_path / name, json.dumps(records, indent=1) if name == "p.json" else lines))
    found = [row.extra["x"] for row in opened.rows()]
    if opened.as_json:
        assert [text if text is None else json.loads(str(text)) for text in found] == values
        return
    assert [_filled(value) for value in found] == [_filled(value) for value in values]
    for value, now in zip(values, found, strict=True):
        assert isinstance(value, bool) == isinstance(now, bool)
        assert isinstance(value, str) == isinstance(now, str)


ARROW: dict[str, tuple[pa.DataType, list[Any]]] = {
    "int8": (pa.int8(), [-128, None]),
    "uint64": (pa.uint64(), [2**64 - 1, 0]),
    "int64": (pa.int64(), [2**53 + 1, None]),
    "float32": (pa.float32(), [0.5, None]),
    "float64": (pa.float64(), [0.1, 1e300]),
    "bool": (pa.bool_(), [True, None]),
    "string": (pa.string(), ["007", ""]),
    "binary": (pa.binary(), [b"\xff\x00", None]),
    "date": (pa.date32(), [date(2026, 1, 2), None]),
    "time": (pa.time64("us"), [time(1, 2, 3, 4), None]),
    "timestamp": (pa.timestamp("us"), [datetime(2026, 1, 2, 3, 4, 5, 6), None]),
    "decimal": (pa.decimal128(5, 2), [Decimal("1.10"), None]),
    "list": (pa.list_(pa.int16()), [[1, None], []]),
    "struct": (pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]), [{"a": 1, "b": ["x"]}, None]),
    "bytes in a struct": (pa.struct([("a", pa.binary())]), [{"a": b"\xff"}, None]),
    "null": (pa.null(), [None, None]),
}


@pytest.mark.parametrize("kind", ARROW)
def test_parquet_values_arrive_with_their_types(tmp_path: Path, kind: str) -> None:
    arrow, values = ARROW[kind]
    pq.write_table(pa.table({"prompt": ["a", "b"], "x": pa.array(values, arrow)}), tmp_path / "p.parquet")
    opened = corpus(tmp_path / "p.parquet")
    assert opened.extra_schema.field("x").type == arrow
    assert [row.extra["x"] for row in opened.rows()] == values


def test_datasets_values_arrive_with_their_types(tmp_path: Path) -> None:
    columns = {}
    for kind, (arrow, values) in ARROW.items():
        columns[kind] = pa.array(values, arrow)
    table = pa.table({"prompt": ["a", "b"], **columns})
    datasets.disable_progress_bars()
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    opened = corpus(tmp_path / "saved")
    assert opened.extra_schema.types == [arrow for arrow, _ in ARROW.values()]
    assert [row.extra for row in opened.rows()] == table.drop(["prompt"]).to_pylist()
