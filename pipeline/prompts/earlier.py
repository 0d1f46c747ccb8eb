"""Column types as earlier versions found them, for runs that one of them began: a resumed run keeps its types.

They took every cell that looks like a number for one, and rounded what does not fit a float64.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa

from noisesmith.pipeline.prompts import cells
from noisesmith.pipeline.prompts.columns import infer_values

_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BOOL = re.compile(r"true|false", re.IGNORECASE)


def infer_cells(values: Sequence[str]) -> pa.DataType:
    """Return the narrowest of bool, int64, float64 and string that can read every filled cell, else null."""
    filled = [value for value in values if value]
    if not filled:
        return pa.null()
    for kind, form in ((pa.bool_(), _BOOL), (pa.int64(), _INT), (pa.float64(), _FLOAT)):
        if all(map(form.fullmatch, filled)):
            return kind
    return pa.string()


def merge_cells(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Return the type of cells of which some have the type ``first`` and some ``second``."""
    if {first, second} == {pa.int64(), pa.float64()}:
        return pa.float64()
    return cells.merge_cells(first, second)


def cell_parser(kind: pa.DataType) -> Callable[[str], object] | None:
    """Return what turns a filled cell into a value of the type that was inferred; ``None`` for text."""
    return _parse_bool if pa.types.is_boolean(kind) else cells.cell_parser(kind)


def infer_json(values: Sequence[object]) -> pa.DataType:
    """Return the Arrow type of JSON values; numbers of which some do not fit a float64 are float64 nevertheless.

    Raises:
        ValueError: no single type holds all.
    """
    try:
        return infer_values(values)
    except ValueError:
        if all(value is None or type(value) in (int, float) for value in values):
            return pa.float64()
        raise


def _parse_bool(cell: str) -> bool:
    return cell.lower() == "true"
