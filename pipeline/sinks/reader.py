"""Read the committed rows of a run, from Parquet or, where a run has no Parquet files, from tar."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.schema import LISTED, column_types, with_image_bytes
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.manifest import Entry, Manifest, read_manifest
from noisesmith.pipeline.sinks.samples import from_sample_json
from noisesmith.pipeline.storage.home import shell_word
from noisesmith.pipeline.storage.paths import given_path

BATCH = 64

# What Arrow, tarfile and the decoding of JSON and text raise on damaged bytes; they have no common base class. JSON and
# Unicode errors are ValueErrors, and a KeyError is a column that a tar's row no longer has.
_DAMAGE = (OSError, ValueError, KeyError, pa.ArrowException, tarfile.TarError)

_TAR_COLUMNS = {"png": "image", "initial.png": "image_initial", "txt": "prompt"}


class DamagedFile(Exception):  # noqa: N818
    """A shard's file cannot be read, or not from some row on; the message says why, in half a sentence."""


def read_rows(run_dir: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of committed shards in order, images as PNG bytes, with the columns of side tables.

    A column of a side table is null in the shards for which that table has no file, and so is a column that a part of
    the run does not have.

    Args:
        columns: the columns to read, in any order; all when absent. Images are read only when they are among them.

    Raises:
        UserError: the directory is no run, has no such column, or a shard is missing or damaged.
    """
    run_dir = given_path(run_dir, "run_dir")
    manifest = read_manifest(run_dir)
    known = manifest.columns
    wanted = known if columns is None else list(columns)
    for name in wanted:
        if name not in known:
            raise UserError(f"{run_dir}: has no column {name!r}; it has {', '.join(known)}")
    return _rows(run_dir, manifest, wanted)


def read_shard(run_dir: Path, manifest: Manifest, entry: Entry, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one committed shard like :func:`read_rows`; none where all of its rows have failed.

    Raises:
        UserError: a file is missing or damaged.
    """
    yield from _shard_rows(run_dir, manifest, entry, columns, _side_columns(manifest, columns))


def read_file(path: Path, columns: Collection[str], header: Header) -> Iterator[dict[str, Any]]:
    """Yield the rows of one shard's file, images as PNG bytes. A tar gives dates and decimals as text.

    Raises:
        DamagedFile: the file cannot be read, or lacks a column; the rows before the damage have been yielded.
    """
    try:
        if path.suffix == ".parquet":
            yield from read_parquet(path, columns)
        else:
            yield from read_tar(path, columns, header.text_columns)
    except _DAMAGE as error:
        raise DamagedFile(reason(error)) from error


def read_features(path: Path) -> Any:
    """Return the ``datasets`` features that a Parquet file states.

    Raises:
        UserError: the file cannot be read.
    """
    import datasets

    try:
        with path.open("rb") as file:
            return datasets.Features.from_arrow_schema(pq.read_schema(file))
    except _DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); run noisesmith verify on its run") from error


def read_types(path: Path) -> dict[str, str]:
    """Return the name and type of each column of a Parquet shard, named as in a manifest.

    Raises:
        DamagedFile: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return column_types(pq.read_schema(file))
    except _DAMAGE as error:
        raise DamagedFile(reason(error)) from error


def read_parquet(path: Path, columns: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one Parquet shard."""
    size = 1 if LISTED in columns else BATCH  # a row may have dozens of images
    with path.open("rb") as source, pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=size, columns=list(columns)):
            for stored in batch.to_pylist():
                row = with_image_bytes(stored)
                yield {name: row[name] for name in columns}


def read_tar(path: Path, columns: Collection[str], text: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one WebDataset shard. Dates and decimals are text, since JSON has no form for them.

    Args:
        text: the columns that the shard holds as JSON text.
    """
    key = ""
    row: dict[str, Any] = {}
    with path.open("rb") as source, tarfile.open(fileobj=source) as tar:
        for member in tar:
            stem, _, kind = member.name.partition(".")
            if stem != key:
                if row:
                    yield {name: row[name] for name in columns}
                key = stem
                row = {}
            if kind == "json":
                row |= from_sample_json(_content(tar, member), text)
            elif _TAR_COLUMNS.get(kind) == "prompt":
                row["prompt"] = _content(tar, member).decode()
            elif _TAR_COLUMNS.get(kind) in columns:
                row[_TAR_COLUMNS[kind]] = _content(tar, member)
    if row:
        yield {name: row[name] for name in columns}


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"its member {member.name} is no file")
    return file.read()


def _rows(run_dir: Path, manifest: Manifest, columns: list[str]) -> Iterator[dict[str, Any]]:
    tables = _side_columns(manifest, columns)
    for _, entry in sorted(manifest.entries.items()):
        yield from _shard_rows(run_dir, manifest, entry, columns, tables)


def _side_columns(manifest: Manifest, columns: list[str]) -> dict[str, list[str]]:
    """Return which of these columns each side table has, by table."""
    tables = {}
    for table, table_columns in manifest.side_columns.items():
        names = [name for name in columns if name in table_columns]
        if names:
            tables[table] = names
    return tables


def _shard_rows(
    run_dir: Path, manifest: Manifest, entry: Entry, columns: list[str], tables: dict[str, list[str]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a shard; ``tables`` are the side tables to join, with the columns wanted of each."""
    if not entry.files:  # all of its rows have failed
        return
    first = entry.readable
    header = manifest.part_of(entry.shard)
    own = [name for name in columns if name in header.columns]
    if own == columns:
        yield from _explained(run_dir, first, columns, header)
        return
    rows = _explained(run_dir, first, list(dict.fromkeys(["id", *own])), header)
    sides = {}
    for table, names in tables.items():
        if manifest.current(table, entry.shard) is not None:
            path = header.layout.side_file(entry.shard, table)
            sides[path] = _explained(run_dir, path, ["id", *names], header)
    unknown = dict.fromkeys(columns)
    for row in rows:
        joined = unknown | row
        for path, side in sides.items():
            values = next(side, {})
            if values.get("id") != row["id"]:
                raise _unreadable(run_dir, path, f"has other rows than its shard at {row['id']}")
            joined |= values
        yield {name: joined[name] for name in columns}


def _explained(run_dir: Path, name: str, columns: list[str], header: Header) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file of a run, or explain in one sentence why it cannot be read."""
    try:
        yield from read_file(run_dir / name, columns, header)
    except DamagedFile as error:
        raise _unreadable(run_dir, name, str(error)) from error


def _unreadable(run_dir: Path, name: str, why: str) -> UserError:
    return UserError(f"{run_dir / name}: cannot be read ({why}); run noisesmith verify {shell_word(run_dir)}")
