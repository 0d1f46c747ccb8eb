"""The columns of a row, as Arrow types and as ``datasets`` features."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Provenance, Result

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGES = ("image", "image_initial")
RECIPE = pa.struct(
    [
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("shape", pa.list_(pa.int32())),
        ("rounds", pa.list_(pa.int32())),
        ("gammas", pa.list_(pa.float64())),
        ("indices", pa.list_(pa.int32())),
        ("candidates", pa.int32()),
        ("steps", pa.int32()),
        ("batch_size", pa.int32()),
        ("digest", pa.string()),
    ]
)
NOISE_BYTES = "noise_fp16"
NOISE = pa.struct([(name, pa.float64()) for name in ("mean", "std", "norm", "ks")])


def row_schema(config: RunConfig, extra_schema: pa.Schema) -> pa.Schema:
    """The columns of every row of a run, in order, the corpus's own last. Scores and γ are float64, so exact."""
    images = IMAGES if config.output.image_initial else IMAGES[:1]
    judges = [f"judge_{judge.name}{when}" for judge in config.judges for when in ("_initial", "")]
    return pa.schema(
        [
            ("id", pa.string()),
            ("prompt", pa.string()),
            *((name, IMAGE) for name in images),
            ("score", pa.float64()),
            ("score_initial", pa.float64()),
            ("scores", pa.list_(pa.float64())),
            ("steps", pa.list_(pa.int32())),
            ("evaluations", pa.list_(pa.float64())),
            ("rounds", pa.int32()),
            ("stop_reason", pa.string()),
            *((name, pa.float64()) for name in judges),
            ("seed", pa.int64()),
            ("recipe", RECIPE),
            ("noise", NOISE),
            *((NOISE_BYTES, pa.binary()) for _ in range(config.stores_noise)),
            *((name, pa.string()) for name in Provenance.__dataclass_fields__),
            ("width", pa.int32()),
            ("height", pa.int32()),
            *extra_schema,
        ]
    )


def reserved_columns(config: RunConfig) -> frozenset[str]:
    """Names that a corpus column cannot have, whichever images and noises this run keeps."""
    return frozenset(row_schema(config, pa.schema([])).names) | {*IMAGES, NOISE_BYTES}


def image_columns(schema: pa.Schema) -> list[str]:
    """Those of the schema's columns that hold encoded images."""
    return [name for name in IMAGES if name in schema.names]


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Name → type of each column, lists named alike whatever their writer calls their items."""
    return {column.name: _type_name(column.type) for column in schema}


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {_type_name(field.type)}' for field in kind)}>"
    if pa.types.is_fixed_size_list(kind):
        return f"list<{_type_name(kind.value_type)}>[{kind.list_size}]"
    return f"list<{_type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def to_table(result: Result, provenance: Provenance, schema: pa.Schema) -> pa.Table:
    """One finished row as a table of one row.

    Raises:
        ValueError: the run keeps first images and this result has none.
        pyarrow.ArrowInvalid: a value does not fit its column.
    """
    for column, value in (("image_initial", result.image_initial), (NOISE_BYTES, result.noise_fp16)):
        if column in schema.names and not value:
            raise ValueError(f"row {result.row.id} comes without its {column}, which this run keeps")
    row: dict[str, Any] = {
        "id": result.row.id,
        "prompt": result.row.prompt,
        "image": result.image,
        "image_initial": result.image_initial,
        "score": result.score,
        "score_initial": result.score_initial,
        "scores": result.scores,
        "steps": result.steps,
        "evaluations": result.evaluations,
        "rounds": result.rounds,
        "stop_reason": result.stop_reason,
        "seed": result.seed,
        "recipe": asdict(result.recipe),
        "noise": asdict(result.noise),
        NOISE_BYTES: result.noise_fp16,
        "width": result.width,
        "height": result.height,
        **asdict(provenance),
        **result.row.extra,
    }
    for judge, (first, kept) in result.judges.items():
        row |= {f"judge_{judge}_initial": first, f"judge_{judge}": kept}
    return row_table(row, schema)


def row_table(row: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """A row of values, its images as encoded bytes, as a table of one row.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column.
    """
    images = {name: {"bytes": row[name], "path": None} for name in image_columns(schema)}
    return pa.Table.from_pylist([{**row, **images}], schema=schema)


def with_features(schema: pa.Schema) -> pa.Schema:
    """The schema with the ``huggingface`` metadata by which ``datasets`` knows images from structs."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema.remove_metadata())
    features |= {name: datasets.Image() for name in image_columns(schema)}
    return schema.with_metadata(
        datasets.Features({name: features[name] for name in schema.names}).arrow_schema.metadata
    )


def sample_json(row: Mapping[str, Any]) -> bytes:
    """A row's columns other than prompt and images as one JSON object, the same keys in every row.

    Values without a JSON form become text (dates, decimals; bytes as base64); numbers that are not finite become null.
    The recipe is text too, being JSON itself: where the first image was kept its lists are empty, and ``datasets``,
    which infers types from the first five samples, would take them for lists of nothing and fail at the sixth.
    """
    columns = {name: _json(value) for name, value in row.items() if name not in ("prompt", *IMAGES)}
    if "recipe" in columns:
        columns["recipe"] = json.dumps(columns["recipe"])
    return json.dumps(columns, ensure_ascii=False, allow_nan=False).encode()


def from_sample_json(text: bytes) -> dict[str, Any]:
    """What :func:`sample_json` wrote; dates and decimals stay text."""
    columns = json.loads(text)
    if NOISE_BYTES in columns:
        columns[NOISE_BYTES] = base64.b64decode(columns[NOISE_BYTES])
    return columns | {"recipe": json.loads(columns["recipe"])}


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
