"""Arrow types of a corpus's extra columns: declared by the source, or inferred from its values."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from noisesmith.pipeline.errors import reason

_WIDER = {pa.time32("s"): pa.time32("ms"), pa.date64(): pa.date32(), pa.duration("s"): pa.duration("ms")}
_EXACT = 2**53  # float64 holds every integer up to this one


def infer_values(values: Sequence[object]) -> pa.DataType:
    """Return the Arrow type that can hold all of some JSON values.

    Raises:
        ValueError: no single type holds them exactly, as for text and numbers, or numbers beyond 64 bits.
        UnicodeEncodeError: a text is not valid Unicode.
    """
    try:
        return pa.array(values).type
    except OverflowError as error:
        raise ValueError("an integer does not fit 64 bits") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(reason(error)) from error


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


def is_wide(value: object) -> bool:
    """Return whether a value is, or holds, an integer that no float64 holds exactly."""
    if isinstance(value, int):
        return not -_EXACT <= value <= _EXACT
    if isinstance(value, list | tuple):
        return any(map(is_wide, value))
    return isinstance(value, dict) and any(map(is_wide, value.values()))


def rounds(kind: pa.DataType, target: pa.DataType) -> bool:
    """Return whether integers of a type, or within it, become floats in the target type."""
    if pa.types.is_integer(kind):
        return bool(pa.types.is_floating(target))
    if _is_list(kind) and _is_list(target):
        return rounds(kind.value_type, target.value_type)
    if not pa.types.is_struct(kind) or not pa.types.is_struct(target):
        return False
    for field in kind:
        position = target.get_field_index(field.name)
        if position >= 0 and rounds(field.type, target.field(position).type):
            return True
    return False


def conform(values: Sequence[object], kind: pa.DataType) -> list[object]:
    """Return values as plain Python values of exactly this type.

    Integers are widened to floats, and absent fields of structs become ``None``.
    """
    conformed: list[object] = pa.array([_widen(value, kind) for value in values], type=kind).to_pylist()
    return conformed


def _widen(value: object, kind: pa.DataType) -> object:
    """Turn integers into floats where the type asks for floats.

    Arrow refuses an integer beyond 2⁵³ in a float column; in runs that earlier versions began it is rounded.
    """
    if isinstance(value, int):
        return float(value) if pa.types.is_floating(kind) else value
    if isinstance(value, list) and _is_list(kind):
        return [_widen(item, kind.value_type) for item in value]
    if isinstance(value, dict) and pa.types.is_struct(kind):
        return {field.name: _widen(value.get(field.name), field.type) for field in kind}
    return value


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type that a column has in the output: one that Parquet and ``datasets`` read back unchanged.

    Dictionaries are decoded, large and view types become ordinary ones, and coarse times and narrow decimals are
    widened. For types that have none, such as maps and objects without fields, the answer is ``None``.
    """
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return None
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if is_bytes(kind):
        return pa.binary()
    if kind in _WIDER:
        return _WIDER[kind]
    if types.is_decimal32(kind) or types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    if _is_list(kind):
        item = plain_type(kind.value_type)
        if item is None:
            return None
        return pa.list_(item, kind.list_size) if types.is_fixed_size_list(kind) else pa.list_(item)
    if types.is_struct(kind):
        return _plain_struct(kind)
    return kind if _passes(kind) else None


def _plain_struct(kind: pa.StructType) -> pa.DataType | None:
    fields = []
    for field in kind:
        plain = plain_type(field.type)
        if plain is None:
            return None
        fields.append(pa.field(field.name, plain))
    return pa.struct(fields) if fields else None


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether values of this type are bytes."""
    types = pa.types
    checks = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(check(kind) for check in checks)


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
