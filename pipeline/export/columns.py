"""What the columns of a run hold, and their values as JSON and file formats of trainers can hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.schema import IMAGES, LISTED, NOISE_BYTES
from noisesmith.pipeline.sinks.samples import json_value

# In the files of an export these have names or files of their own.
NOT_METADATA = frozenset({"prompt", NOISE_BYTES, *IMAGES, LISTED})


class Kind(Enum):
    """What a column holds, in the words of a message."""

    NUMBER = "numbers"
    TEXT = "text"
    FLAG = "true or false"
    OTHER = "values that cannot be compared"


def kind_of(type_name: str) -> Kind:
    """Return the kind of a column from the name of its Arrow type, as a manifest has it."""
    if type_name == "bool":
        return Kind.FLAG
    if type_name in ("string", "large_string"):
        return Kind.TEXT
    if type_name.startswith(("int", "uint", "float", "halffloat", "double", "decimal")):
        return Kind.NUMBER
    return Kind.OTHER


def arrow_type(type_name: str) -> pa.DataType:
    """Return the type in which the values of a column are compared; it is not of the kind ``OTHER``.

    Tars give decimals as text, and ``float16`` arrays take no Python numbers, so both become float64.
    """
    if type_name.startswith(("decimal", "halffloat", "float", "double")):
        return pa.float64()
    return pa.type_for_alias(type_name)


def arrow_value(value: Any, kind: pa.DataType) -> Any:
    """Return a value as an array of :func:`arrow_type` takes it; NaN becomes null."""
    if value is None:
        return None
    if pa.types.is_floating(kind):
        number = float(value)
        return None if math.isnan(number) else number
    return value


def metadata_names(columns: Collection[str], reserved: Collection[str]) -> dict[str, str]:
    """Return the name that each column has in the metadata of an export.

    A corpus's column with a reserved name, or one that ``datasets`` would take for the path of an image, gets an
    underscore at its end.
    """
    names: dict[str, str] = {}
    taken = {*columns, *reserved}
    for column in columns:
        name = column
        if column in reserved or column.endswith(("_file_name", "_file_names")) or column == "file_names":
            while name in taken:
                name += "_"
            taken.add(name)
        names[column] = name
    return names


def metadata_columns(columns: Mapping[str, str]) -> list[str]:
    """Return the columns of a run that become metadata of an image: all but the prompt, images and noises."""
    return [name for name in columns if name not in NOT_METADATA]


def plain(value: Any, type_name: str) -> Any:
    """Return a value as one JSON number, text, boolean or null, so that a column has the same type in every row.

    Lists and structs become JSON text; so do dates, decimals and unsigned 64-bit integers, which JSON readers would
    change. Bytes become base64. Numbers that are not finite become null.
    """
    made = json_value(value, finite=True)
    if isinstance(made, list | dict):
        return json.dumps(made, ensure_ascii=False)
    return str(made) if type_name == "uint64" and made is not None else made


def plain_type(type_name: str) -> pa.DataType:
    """Return the Arrow type of what :func:`plain` makes of a column's values."""
    if type_name == "bool" or (type_name != "uint64" and type_name.startswith(("int", "uint"))):
        return pa.type_for_alias(type_name)
    return pa.float64() if type_name in ("float", "double", "halffloat") else pa.string()
