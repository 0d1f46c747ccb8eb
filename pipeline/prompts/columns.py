"""Types of a corpus's extra columns: declared by the source, or inferred from what it holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.errors import UserError, reason

_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # no leading zeros: 007 is a name, not a number
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BOOL = re.compile(r"true|false", re.IGNORECASE)
_WIDER = {pa.time32("s"): pa.time32("ms"), pa.date64(): pa.date32(), pa.duration("s"): pa.duration("ms")}
_CELL_TYPES = ((pa.bool_(), _BOOL), (pa.int64(), _INT), (pa.float64(), _FLOAT))


def infer_values(values: Sequence[Any]) -> pa.DataType:
    """The Arrow type that holds every one of some JSON values.

    Raises:
        ValueError: no single type does, such as for text beside numbers.
    """
    try:
        return pa.array(values).type
    except OverflowError:
        raise ValueError("an integer does not fit 64 bits") from None
    except UnicodeEncodeError:
        raise ValueError("a text is not valid Unicode") from None
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        if all(value is None or type(value) in (int, float) for value in values):
            return pa.float64()  # an integer beyond 2⁵³ beside a float
        raise ValueError(reason(error)) from error


def infer_cells(values: Sequence[str]) -> pa.DataType:
    """The narrowest of bool, int64, float64 and string that reads every filled CSV cell; null where none is."""
    cells = [value for value in values if value]
    if not cells:
        return pa.null()
    return next((kind for kind, form in _CELL_TYPES if all(map(form.fullmatch, cells))), pa.string())


def merge_cells(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The type of CSV cells of which some are ``first`` and some ``second``."""
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    return pa.float64() if {first, second} == {pa.int64(), pa.float64()} else pa.string()


def merge(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The type that holds the values of both.

    Raises:
        ValueError: there is none.
    """
    fields = [pa.schema([("column", kind)]) for kind in (first, second)]
    try:
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise ValueError(f"{first} in one place and {second} in another") from None


def parse_cells(values: Sequence[str], kind: pa.DataType) -> list[Any]:
    """CSV cells as Python values of ``kind``, which :func:`infer_cells` found. An empty cell is ``None``."""
    if pa.types.is_boolean(kind):
        return [value.lower() == "true" if value else None for value in values]
    if pa.types.is_integer(kind):
        return [int(value) if value else None for value in values]
    if pa.types.is_floating(kind):
        return [float(value) if value else None for value in values]
    return [value or None for value in values]


def conform(values: Sequence[Any], kind: pa.DataType) -> list[Any]:
    """Values as plain Python values of exactly ``kind``: integers widened to floats, absent struct fields ``None``."""
    conformed: list[Any] = pa.array([_widen(value, kind) for value in values], type=kind).to_pylist()
    return conformed


def _widen(value: Any, kind: pa.DataType) -> Any:
    """Arrow refuses an integer beyond 2⁵³ in a float column; here it is rounded, as JSON readers do."""
    if isinstance(value, int):
        return float(value) if pa.types.is_floating(kind) else value
    if isinstance(value, list) and _is_list(kind):
        return [_widen(item, kind.value_type) for item in value]
    if isinstance(value, dict) and pa.types.is_struct(kind):
        return {field.name: _widen(value.get(field.name), field.type) for field in kind}
    return value


def plain_type(name: str, kind: pa.DataType, where: str) -> pa.DataType:
    """The type a column has in the output: one that Parquet and ``datasets`` give back as it was.

    Dictionaries are decoded, large strings and lists made ordinary, coarse times and narrow decimals widened.

    Raises:
        UserError: the values cannot pass through (binary data, maps, extension types).
    """
    types = pa.types
    if types.is_dictionary(kind):
        return plain_type(name, kind.value_type, where)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if kind in _WIDER:
        return _WIDER[kind]
    if types.is_decimal32(kind) or types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    if types.is_fixed_size_list(kind):
        return pa.list_(plain_type(name, kind.value_type, where), kind.list_size)
    if _is_list(kind):
        return pa.list_(plain_type(name, kind.value_type, where))
    if types.is_struct(kind) and kind.num_fields:
        return pa.struct([pa.field(field.name, plain_type(name, field.type, where)) for field in kind])
    numeric = types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    in_time = types.is_temporal(kind) and not types.is_interval(kind)
    if numeric or in_time or types.is_string(kind) or types.is_null(kind):
        return kind
    raise UserError(
        f"{where}: column {name!r} holds {_describe(kind)}, which cannot pass through to the rows; remove that column"
    )


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    is_list: bool = (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )
    return is_list


def _describe(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "binary data"
    return "empty objects" if types.is_struct(kind) else f"{kind} values"
