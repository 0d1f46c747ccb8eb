"""Types of the text cells of a table. A column becomes a number only where each cell is exactly what it prints as."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import pyarrow as pa

_INT = re.compile(r"0|-?[1-9][0-9]{0,18}")
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?")
_BOOLS = {"True": True, "False": False}


def infer_cells(values: Sequence[str]) -> pa.DataType:
    """Return the type whose values print as the filled cells of a column; null where no cell is filled.

    Numbers print as in Python and pandas: ``7``, ``2.0``, ``1e-05``, ``True``. So ``007``, ``1.50``, ``12e5`` and
    integers beyond 64 bits stay text.
    """
    cells = [value for value in values if value]
    if not cells:
        return pa.null()
    for kind, prints in ((pa.int64(), _is_int), (pa.float64(), _is_float), (pa.bool_(), _BOOLS.__contains__)):
        if all(map(prints, cells)):
            return kind
    return pa.string()


def merge_cells(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Return the type of cells of which some have the type ``first`` and some ``second``."""
    if first == second or pa.types.is_null(second):
        return first
    return second if pa.types.is_null(first) else pa.string()


def cell_parser(kind: pa.DataType) -> Callable[[str], object] | None:
    """Return what turns a filled cell into a value of the type that was inferred; ``None`` for text."""
    if pa.types.is_boolean(kind):
        return _BOOLS.__getitem__
    if pa.types.is_integer(kind):
        return int
    return float if pa.types.is_floating(kind) else None


def _is_int(cell: str) -> bool:
    return _INT.fullmatch(cell) is not None and -(2**63) <= int(cell) < 2**63


def _is_float(cell: str) -> bool:
    if _FLOAT.fullmatch(cell) is None:
        return False
    value = float(cell)
    return math.isfinite(value) and repr(value) == cell
