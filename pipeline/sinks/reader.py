"""The committed rows of a run, read back from Parquet or, where there is none, from tar."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts.columns import first_line
from noisesmith.pipeline.schema import IMAGES, from_sample_json
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.storage.paths import to_path

BATCH = 64


def read_rows(run_dir: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of committed shards in order, images as PNG bytes. Images are not read unless asked for.

    Args:
        columns: those wanted, in any order; all when absent.

    Raises:
        UserError: the directory is no run, has no such column, or a shard is missing or damaged.
    """
    run_dir = to_path(run_dir)
    manifest = read_manifest(run_dir)
    known = list(manifest.header.columns)
    wanted = known if columns is None else list(columns)
    for name in wanted:
        if name not in known:
            raise UserError(f"{run_dir}: has no column {name!r}; it has {', '.join(known)}")
    return _rows(run_dir, [file for _, entry in sorted(manifest.entries.items()) for file in entry.files[:1]], wanted)


def read_file(path: Path, columns: Collection[str]) -> Iterator[dict[str, Any]]:
    """Rows of one shard's file, images as PNG bytes. Dates and decimals of a tar come as text."""
    return (read_parquet if path.suffix == ".parquet" else read_tar)(path, columns)


def read_parquet(path: Path, columns: Collection[str]) -> Iterator[dict[str, Any]]:
    """Rows of one Parquet shard."""
    with path.open("rb") as source, pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=list(columns)):
            for row in batch.to_pylist():
                for name in IMAGES:
                    if row.get(name) is not None:
                        row[name] = row[name]["bytes"]
                yield {name: row[name] for name in columns}


def read_tar(path: Path, columns: Collection[str]) -> Iterator[dict[str, Any]]:
    """Rows of one WebDataset shard. Dates and decimals come as text, since JSON has no form for them."""
    kinds = {"png": "image", "initial.png": "image_initial", "txt": "prompt"}
    key, row = "", dict[str, Any]()
    with path.open("rb") as source, tarfile.open(fileobj=source) as tar:
        for member in tar:
            stem, _, kind = member.name.partition(".")
            if stem != key and row:
                yield {name: row[name] for name in columns}
            if stem != key:
                key, row = stem, {}
            if kind != "json" and kinds.get(kind) not in columns:
                continue
            content = tar.extractfile(member).read()  # type: ignore[union-attr]
            row |= from_sample_json(content) if kind == "json" else {kinds[kind]: content}
            if kind == "txt":
                row["prompt"] = content.decode()
    if row:
        yield {name: row[name] for name in columns}


def _rows(run_dir: Path, data_files: list[Any], columns: list[str]) -> Iterator[dict[str, Any]]:
    for file in data_files:
        path = run_dir / file.path
        try:
            yield from read_file(path, columns)
        except (OSError, KeyError, ValueError, pa.ArrowException, tarfile.TarError) as error:
            raise UserError(f"{path}: cannot be read ({first_line(error)}); run noisesmith verify {run_dir}") from None
