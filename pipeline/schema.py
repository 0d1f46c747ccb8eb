"""The columns of a row, as Arrow types and as ``datasets`` features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Provenance, Result

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGES = ("image", "image_initial")
LISTED = "round_images"  # a list with one entry per image made, null where it is not kept; in Parquet files alone
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
ATOMS = "atoms"
ATOM = pa.struct([("question", pa.string()), ("answer", pa.string()), ("score", pa.float64())])
RUN_SEED = "run_seed"
PARENT = "parent_id"  # the row whose search this one continues; runs that began before it was known do not have it
IMAGE_HASHES = {"image": "image_sha256", "image_initial": "image_initial_sha256"}  # of the bytes of each image column
# Columns that runs before version 5 did not write, so that the corpus of such a run may have one of that name.
SINCE_VERSION_5 = frozenset({RUN_SEED, *IMAGE_HASHES.values(), "scheduler", "guidance_scale", "negative_prompt"})
NOISE_BYTES = "noise_fp16"
TOKENS_CUT = "prompt_tokens_cut"
NOISE = pa.struct([(name, pa.float64()) for name in ("mean", "std", "norm", "ks")])


def row_schema(config: RunConfig, extra_schema: pa.Schema) -> pa.Schema:
    """Return the columns of a new run's rows, in order, the corpus's own last.

    Scores and γ are float64, so they are stored exactly. A resumed run has the columns of its manifest instead
    (:func:`schema_of`).
    """
    columns: list[tuple[str, pa.DataType]] = [("id", pa.string()), ("prompt", pa.string()), ("image", IMAGE)]
    if config.output.stores_first:
        columns.append(("image_initial", IMAGE))
    if config.output.images:
        columns.append((LISTED, pa.list_(IMAGE)))
    columns += [
        ("score", pa.float64()),
        ("score_initial", pa.float64()),
        ("scores", pa.list_(pa.float64())),
        ("steps", pa.list_(pa.int32())),
        ("evaluations", pa.list_(pa.float64())),
        ("rounds", pa.int32()),
        ("stop_reason", pa.string()),
    ]
    if len(config.panel) > 1:
        for member in config.panel:
            columns += [(f"score_{member.name}_initial", pa.float64()), (f"score_{member.name}", pa.float64())]
    if config.asks_questions:
        columns.append((ATOMS, pa.list_(ATOM)))
    for judge in config.judges:
        columns += [(f"judge_{judge.name}_initial", pa.float64()), (f"judge_{judge.name}", pa.float64())]
    columns += [(PARENT, pa.string()), (RUN_SEED, pa.int64()), ("recipe", RECIPE), ("noise", NOISE)]
    if config.stores_noise:
        columns.append((NOISE_BYTES, pa.binary()))
    for name in Provenance.__dataclass_fields__:
        columns.append((name, pa.float64() if name == "guidance_scale" else pa.string()))
    columns += [("width", pa.int32()), ("height", pa.int32()), (TOKENS_CUT, pa.int32())]
    columns += [(IMAGE_HASHES[name], pa.string()) for name, _ in columns if name in IMAGE_HASHES]
    return pa.schema([*columns, *extra_schema])


def schema_of(columns: Mapping[str, str], extra_schema: pa.Schema) -> pa.Schema:
    """Return the schema of a run whose manifest lists these columns, in their order and with their types.

    An older version may have written the manifest, so nothing here follows from what this version would write. The
    corpus's own columns take their types from the corpus, whose digest covers them.

    Args:
        columns: name → type of each column, as :func:`column_types` names it.

    Raises:
        ValueError: a type has no such name.
    """
    corpus_types = {column.name: column.type for column in extra_schema}
    fields = []
    for name, type_name in columns.items():
        kind = corpus_types[name] if name in corpus_types else _parse_type(type_name)
        fields.append((name, kind))
    return pa.schema(fields)


def reserved_columns(config: RunConfig, *, started: bool = False) -> frozenset[str]:
    """Return the names that a corpus column cannot have, whichever images and noises this run keeps.

    ``seed`` is among them because a reader would take it for the seed of the image.

    Args:
        started: whether the run exists, so that an older version may have written it.
    """
    names = frozenset(row_schema(config, pa.schema([])).names)
    names |= {*IMAGES, LISTED, *IMAGE_HASHES.values(), NOISE_BYTES, "seed"}
    return names - SINCE_VERSION_5 - {LISTED, PARENT} if started else names


def image_columns(schema: pa.Schema) -> list[str]:
    """Return the names of the columns that hold encoded images, one per row or a list of them."""
    return [name for name in (*IMAGES, LISTED) if name in schema.names]


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Return the name and type of each column. Lists get the same name whatever their writer calls their items."""
    return {column.name: _type_name(column.type) for column in schema}


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        fields = ", ".join(f"{field.name}: {_type_name(field.type)}" for field in kind)
        return f"struct<{fields}>"
    if pa.types.is_fixed_size_list(kind):
        return f"list<{_type_name(kind.value_type)}>[{kind.list_size}]"
    if pa.types.is_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    return str(kind)


def _parse_type(name: str) -> pa.DataType:
    """Return the type that :func:`_type_name` has named. The run's own columns have no fixed-size lists.

    Raises:
        ValueError: there is no type of this name.
    """
    inner = name.partition("<")[2].removesuffix(">")
    if name.startswith("list<"):
        return pa.list_(_parse_type(inner))
    if name.startswith("struct<"):
        fields = []
        for field in _split_fields(inner):
            field_name, _, type_name = field.partition(": ")
            fields.append((field_name, _parse_type(type_name)))
        return pa.struct(fields)
    return pa.type_for_alias(name)


def _split_fields(text: str) -> list[str]:
    """Split a struct's fields at the commas between them, and not at those within a nested type."""
    fields = [""]
    depth = 0
    for part in text.split(", "):
        fields[-1] += part if depth == 0 else f", {part}"
        depth += part.count("<") - part.count(">")
        if depth == 0:
            fields.append("")
    return fields[:-1]


def to_table(result: Result, provenance: Provenance, schema: pa.Schema) -> pa.Table:
    """Return one finished row as a table of one row.

    What the schema has no column for is left out, and a column that nothing here fills is null: the schema of a resumed
    run may be older or newer than this version.

    Raises:
        ValueError: the run keeps first images or noises, and this result has none.
        pyarrow.ArrowInvalid: a value does not fit its column.
    """
    stored = (("image_initial", result.image_initial), (NOISE_BYTES, result.noise_fp16), (LISTED, result.images))
    for column, value in stored:
        if column in schema.names and not value:
            raise ValueError(f"row {result.row.id} comes without its {column}, which this run keeps")
    row: dict[str, Any] = {
        "id": result.row.id,
        "prompt": result.row.prompt,
        "image": result.image,
        "image_initial": result.image_initial,
        LISTED: result.images,
        "score": result.score,
        "score_initial": result.score_initial,
        "scores": result.scores,
        "steps": result.steps,
        "evaluations": result.evaluations,
        "rounds": result.rounds,
        "stop_reason": result.stop_reason,
        ATOMS: [asdict(atom) for atom in result.atoms],
        "seed": result.seed,  # what runs before version 5 call it
        RUN_SEED: result.seed,
        PARENT: None if result.row.parent is None else result.row.parent.id,
        "recipe": asdict(result.recipe),
        "noise": asdict(result.noise),
        NOISE_BYTES: result.noise_fp16,
        "width": result.width,
        "height": result.height,
        TOKENS_CUT: result.prompt_tokens_cut,
        **image_hashes({"image": result.image, "image_initial": result.image_initial}),
        **asdict(provenance),
        **result.row.extra,
    }
    for member, (score_initial, score) in result.members.items():
        row[f"score_{member}_initial"] = score_initial
        row[f"score_{member}"] = score
    for judge, (first, kept) in result.judges.items():
        row[f"judge_{judge}_initial"] = first
        row[f"judge_{judge}"] = kept
    return row_table(row, schema)


def image_hashes(images: Mapping[str, bytes | None]) -> dict[str, str]:
    """Return the columns that hold the SHA-256 of encoded images, by column; none for an image that is ``None``."""
    hashes = {}
    for name, content in images.items():
        if content is not None:
            hashes[IMAGE_HASHES[name]] = hashlib.sha256(content).hexdigest()
    return hashes


def row_table(row: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Return a row of values, its images as encoded bytes, as a table of one row. Values not given are null.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column.
    """
    images: dict[str, Any] = {}
    for name in image_columns(schema):
        value = row[name]
        images[name] = [_image(content) for content in value] if name == LISTED else _image(value)
    return pa.Table.from_pylist([{**row, **images}], schema=schema)


def _image(content: bytes | None) -> dict[str, Any] | None:
    return None if content is None else {"bytes": content, "path": None}


def with_image_bytes(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as it is stored with its images as encoded bytes: what :func:`row_table` was given."""
    plain = dict(row)
    for name in IMAGES:
        if row.get(name) is not None:
            plain[name] = row[name]["bytes"]
    if row.get(LISTED) is not None:
        plain[LISTED] = [image and image["bytes"] for image in row[LISTED]]
    return plain


def is_feature(kind: pa.DataType) -> bool:
    """Return whether ``datasets`` can read columns of a type."""
    import datasets

    try:
        datasets.Features.from_arrow_schema(pa.schema([("column", kind)]))
    except ValueError:
        return False
    return True


def with_features(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the ``huggingface`` metadata by which ``datasets`` recognises images."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema.remove_metadata())
    for name in image_columns(schema):
        features[name] = datasets.List(datasets.Image()) if name == LISTED else datasets.Image()
    return schema.with_metadata(features.arrow_schema.metadata)
