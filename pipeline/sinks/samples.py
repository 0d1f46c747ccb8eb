"""The JSON file of a WebDataset sample: every column of a row except its prompt and its images.

``datasets`` types a tar from its first five samples. A column that is null in all of them, or a list that is empty,
would get the type null, and the sixth sample would fail. So a column that may be null holds text: its value as JSON.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.schema import IMAGES, LISTED, NOISE_BYTES, SINCE_VERSION_5

# Version 1 of the manifest knew no other column as JSON text. Version 2 has all but those below, and version 5 all but
# some more: runs of these versions exist, so a name can neither be added nor removed.
TEXT_OF_VERSION_1 = ("recipe",)
NEVER_NULL = frozenset(
    {
        "id", "score", "score_initial", "scores", "steps", "evaluations", "rounds", "stop_reason", "seed", "noise",
        NOISE_BYTES, "optimizer", "generator", "generator_revision", "scorer", "scorer_revision", "readout", "width",
        "height",
    }
)  # fmt: skip
NEVER_NULL_SINCE_5 = NEVER_NULL | SINCE_VERSION_5
_NOT_IN_JSON = frozenset({"prompt", *IMAGES, LISTED})  # columns that are files of a sample, or that tars do not hold


def text_columns(columns: Iterable[str], version: int) -> tuple[str, ...]:
    """Return which of a run's columns its tars hold as JSON text; ``version`` is that of its manifest."""
    in_json = [name for name in columns if name not in _NOT_IN_JSON]
    if version == 1:
        return tuple(name for name in in_json if name in TEXT_OF_VERSION_1)
    never_null = NEVER_NULL if version < 5 else NEVER_NULL_SINCE_5
    return tuple(name for name in in_json if name not in never_null)


def sample_json(row: Mapping[str, Any], text: Collection[str]) -> bytes:
    """Return a row's columns except prompt and images as one JSON object, with the same keys in every row.

    Values without a JSON form become text (dates, decimals; bytes as base64). Numbers that are not finite become null,
    but in JSON text they are NaN and Infinity, as Python writes and reads them.

    Args:
        text: the columns to hold as JSON text (:func:`text_columns`).
    """
    columns: dict[str, Any] = {}
    for name, value in row.items():
        if name in _NOT_IN_JSON:
            continue
        if name in text:
            columns[name] = json.dumps(json_value(value, finite=False), ensure_ascii=False)
        else:
            columns[name] = json_value(value, finite=True)
    return json.dumps(columns, ensure_ascii=False, allow_nan=False).encode()


def from_sample_json(content: bytes, text: Collection[str]) -> dict[str, Any]:
    """Read what :func:`sample_json` wrote; dates and decimals stay text.

    Raises:
        ValueError: the content is not what :func:`sample_json` writes.
    """
    columns = json.loads(content)
    if not isinstance(columns, dict):
        raise ValueError("a sample's JSON is no object")  # noqa: TRY004 - damage in a file, as is text that is no JSON
    for name in text:
        if name in columns:
            columns[name] = json.loads(_text(columns[name]))
    if columns.get(NOISE_BYTES) is not None:
        columns[NOISE_BYTES] = base64.b64decode(_text(columns[NOISE_BYTES]))
    return columns


def tar_features(schema: pa.Schema, text: Collection[str]) -> Any:
    """Return the ``datasets`` features of a run's tars, as ``datasets`` would infer them from enough samples.

    Args:
        schema: the run's columns; the types of those in ``text`` do not matter.
    """
    import datasets

    fields: list[tuple[str, pa.DataType]] = []
    for column in schema:
        if column.name not in _NOT_IN_JSON:
            fields.append((column.name, pa.string() if column.name in text else _json_type(column.type)))
    files = [("json", pa.struct(fields)), ("txt", pa.string()), ("__key__", pa.string()), ("__url__", pa.string())]
    features: dict[str, Any] = {"png": datasets.Image()}
    if "image_initial" in schema.names:
        features["initial.png"] = datasets.Image()
    return datasets.Features(features | dict(datasets.Features.from_arrow_schema(pa.schema(files))))


def _json_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that values of a type have once they were JSON."""
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _json_type(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_json_type(kind.value_type))
    if pa.types.is_integer(kind):
        return pa.int64()
    return pa.float64() if pa.types.is_floating(kind) else pa.string()


def json_value(value: Any, *, finite: bool) -> Any:
    """Return a value as JSON can hold it; with ``finite``, numbers that are not finite become null."""
    if isinstance(value, dict):
        return {name: json_value(item, finite=finite) for name, item in value.items()}
    if isinstance(value, list):
        return [json_value(item, finite=finite) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return None if finite and not math.isfinite(value) else value
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} stands where there must be text")  # noqa: TRY004 - damage in a file
    return value
