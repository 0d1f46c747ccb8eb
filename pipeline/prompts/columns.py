"""Types of a corpus's extra columns: declared by the source, or inferred from its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa

from noisesmith.pipeline.errors import UserError, reason

_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # no leading zeros: 007 is a name, not a number
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BOOL = re.compile(r"true|false", re.IGNORECASE)
_WIDER = {pa.time32("s"): pa.time32("ms"), pa.date64(): pa.date32(), pa.duration("s"): pa.duration("ms")}
_CELL_TYPES = ((pa.bool_(), _BOOL), (pa.int64(), _INT), (pa.float64(), _FLOAT))


def infer_values(values: Sequence[object]) -> pa.DataType:
    """Return the Arrow type that can hold all of some JSON values.

    Raises:
        ValueError: no single type can, such as for text and numbers.
    """
    try:
        return pa.array(values).type
    except OverflowError as error:
        raise ValueError("an integer does not fit 64 bits") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text is not valid Unicode") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        if all(value is None or type(value) in (int, float) for value in values):
            return pa.float64()  # Arrow refuses to mix floats with integers beyond 2⁵³
        raise ValueError(reason(error)) from error


def infer_cells(values: Sequence[str]) -> pa.DataType:
    """Return the narrowest of bool, int64, float64 and string that can read every filled CSV cell.

    Where no cell is filled, this is null.
    """
    cells = [value for value in values if value]
    if not cells:
        return pa.null()
    for kind, form in _CELL_TYPES:
        if all(map(form.fullmatch, cells)):
            return kind
    return pa.string()


def merge_cells(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Return the type of CSV cells of which some have the type ``first`` and some ``second``."""
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    if {first, second} == {pa.int64(), pa.float64()}:
        return pa.float64()
    return pa.string()


def merge(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Return the type that can hold the values of both types.

    Raises:
        ValueError: there is none.
    """
    schemas = [pa.schema([("column", first)]), pa.schema([("column", second)])]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{first} in one place and {second} in another") from error


def parse_cells(values: Sequence[str], kind: pa.DataType) -> list[object]:
    """Return CSV cells as Python values of the type that :func:`infer_cells` has found. An empty cell is ``None``."""
    parse: Callable[[str], object] = str
    if pa.types.is_boolean(kind):
        parse = _parse_bool
    elif pa.types.is_integer(kind):
        parse = int
    elif pa.types.is_floating(kind):
        parse = float
    return [parse(value) if value else None for value in values]


def _parse_bool(cell: str) -> bool:
    return cell.lower() == "true"


def conform(values: Sequence[object], kind: pa.DataType) -> list[object]:
    """Return values as plain Python values of exactly this type.

    Integers are widened to floats, and absent fields of structs become ``None``.
    """
    conformed: list[object] = pa.array([_widen(value, kind) for value in values], type=kind).to_pylist()
    return conformed


def _widen(value: object, kind: pa.DataType) -> object:
    """Turn integers into floats where the type asks for floats.

    Arrow refuses an integer beyond 2⁵³ in a float column; here it is rounded, as JSON readers do.
    """
    if isinstance(value, int):
        return float(value) if pa.types.is_floating(kind) else value
    if isinstance(value, list) and _is_list(kind):
        return [_widen(item, kind.value_type) for item in value]
    if isinstance(value, dict) and pa.types.is_struct(kind):
        return {field.name: _widen(value.get(field.name), field.type) for field in kind}
    return value


def plain_type(name: str, kind: pa.DataType, where: str) -> pa.DataType:
    """Return the type that a column has in the output: one that Parquet and ``datasets`` read back unchanged.

    Dictionaries are decoded, large strings and lists become ordinary ones, and coarse times and narrow decimals are
    widened.

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
    if _passes(kind):
        return kind
    raise UserError(
        f"{where}: column {name!r} holds {_describe(kind)}, which cannot pass through to the rows; remove that column"
    )


def _passes(kind: pa.DataType) -> bool:
    """Return whether a type that is not nested stays as it is in Parquet and ``datasets``."""
    types = pa.types
    if types.is_temporal(kind):
        return not types.is_interval(kind)
    checks = (
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_string,
        types.is_null,
    )
    return any(check(kind) for check in checks)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(check(kind) for check in checks)


def _describe(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "binary data"
    if types.is_struct(kind):
        return "empty objects"
    return f"{kind} values"
