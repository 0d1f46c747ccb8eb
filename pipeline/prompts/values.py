"""Values of columns in another form: as JSON text, or as the type that the config gives them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.config.corpus import ColumnType

Convert = Callable[[Any], Any]
_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
_BOOLS = {"true": True, "false": False}


def json_text(value: object) -> str:
    """Return a value as JSON text, which ``json.loads`` reads back.

    Bytes become base64, a map becomes a list of pairs, and what else has no JSON form becomes its text.
    """
    text = json.dumps(value, ensure_ascii=False, default=_without_json)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair can only be written as an escape
        return json.dumps(value, default=_without_json)
    return text


def _without_json(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def text_of(value: object) -> str:
    """Return a text as it is, bytes decoded as UTF-8, and any other value as JSON text.

    Raises:
        ValueError: the bytes are not UTF-8, or the text is not valid Unicode.
    """
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        return json_text(value)
    value.encode()
    return value


def chosen_type(name: ColumnType) -> tuple[pa.DataType, Convert]:
    """Return the Arrow type that ``corpus.columns.types`` names, and what turns a value into it.

    The conversion raises ``ValueError`` where the value has no such form.
    """
    converters: dict[str, Convert] = {"string": text_of, "int64": _int, "float64": _float, "bool": _bool}
    return _TYPES[name], converters[name]


def _int(value: object) -> int:
    if isinstance(value, str | bytes):
        number = int(_plain_number(value))
    else:
        number = int(value)  # type: ignore[call-overload]
        if number != value:
            raise ValueError("not a whole number")
    if not -(2**63) <= number < 2**63:
        raise ValueError("beyond 64 bits")
    return number


def _float(value: object) -> float:
    if not isinstance(value, str | bytes):
        return float(value)  # type: ignore[arg-type]
    text = _plain_number(value)
    number = float(text)
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError("too large")
    return number


def _plain_number(value: str | bytes) -> str:
    text = text_of(value)
    if "_" in text:
        raise ValueError("no number")  # Python would read 1_000 as one
    return text


def _bool(value: object) -> bool:
    if isinstance(value, str | bytes):
        value = _BOOLS.get(text_of(value).lower())
    if value not in (False, True):  # 0 and 1 are equal to these
        raise ValueError("neither true nor false")
    return bool(value)
