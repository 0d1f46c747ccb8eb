"""Side tables: further columns of a run's rows, made after them, in files next to ``data/``.

A table has one Parquet file per shard, ``side/NAME/train-00000-of-NNNNN.parquet``: the ids of the shard's rows in their
order, then the table's own columns. A file counts once the manifest lists it, and for as long as its shard has the rows
that it was made from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.errors import RunError, UserError, reason
from noisesmith.pipeline.schema import column_types, is_feature
from noisesmith.pipeline.sinks.done import recover
from noisesmith.pipeline.sinks.header import WITH_SIDE_TABLES
from noisesmith.pipeline.sinks.location import writing
from noisesmith.pipeline.sinks.manifest import (
    Manifest,
    SideEntry,
    append_side,
    read_manifest,
    write_manifest,
)
from noisesmith.pipeline.sinks.reader import read_shard
from noisesmith.pipeline.sinks.shards import HashedFile, parquet_file
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.lock import hold
from noisesmith.pipeline.storage.paths import given_path

CheckLock = Callable[[], None]
TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
RESERVED = frozenset({"default", "data", "tars"})  # configurations of a dataset, and what readers call its folders


@contextmanager
def hold_side(run_dir: str | Path, note: Callable[[str], None]) -> Iterator[CheckLock]:
    """Be the only writer of a run's directory while the block runs, to write side tables. The run stays as it is.

    What a crash has left is removed first.

    Args:
        note: called with one sentence when this waits for a lock or takes one over.

    Yields:
        what makes sure, before each write, that this session still has the lock.

    Raises:
        UserError: the directory is no run or cannot be written, its manifest is damaged, or another session writes it.
    """
    path = given_path(run_dir, "run_dir")
    read_manifest(path)  # a directory that is no run gets no lock file
    with hold(path, note) as lock:
        with writing(path):
            recover(path)
        yield lock.check


class SideWriter:
    """Writes the files of one side table, as the only writer of the run (:func:`hold_side`).

    Args:
        check_lock: called before each write; raises a ``RunError`` where another session has taken the directory over.
        schema: the table's own columns, without ``id``. Every value may be null.

    Raises:
        UserError: the table's name or the type of a column cannot be used, the run or another side table has one of its
            columns, or a table of this name has other columns.
    """

    def __init__(self, run_dir: str | Path, name: str, schema: pa.Schema, check_lock: CheckLock) -> None:
        self.name = name
        self._run_dir = given_path(run_dir, "run_dir")
        self.manifest = read_manifest(self._run_dir)
        self._check_lock = check_lock
        self._columns = column_types(schema)
        self._schema = pa.schema([("id", pa.string()), *schema])
        refuse_table(self.manifest, name, schema)

    def missing(self, origin: Mapping[str, str]) -> list[int]:
        """Return the committed shards that have rows and no file whose values were made in this way."""
        return [shard for shard in self.filled() if self.origin(shard) != origin]

    def origin(self, shard: int) -> dict[str, str] | None:
        """Return how the values of a shard's file were made; ``None`` where it has none."""
        entry = self.manifest.current(self.name, shard)
        return None if entry is None else entry.origin

    def filled(self) -> list[int]:
        """Return the committed shards that have rows, in order."""
        return self.manifest.filled

    def rows(self, shard: int, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a committed shard in order, with these columns (:func:`read_rows`)."""
        return read_shard(self._run_dir, self.manifest, self.manifest.entries[shard], columns)

    def put(self, shard: int, rows: Sequence[Mapping[str, Any]], origin: Mapping[str, str]) -> None:
        """Commit the table's file of a shard, in place of an earlier one.

        Args:
            rows: every row of the shard in order, each with ``id`` and the table's columns; one not given is null.
            origin: how the values were made, such as the model and its revision.

        Raises:
            ValueError: these are not the shard's rows.
            RunError: the file cannot be written, or another session has taken the directory over.
        """
        entry = self.manifest.entries[shard]
        ids = "".join(f"{row['id']}\n" for row in rows)
        digest = hashlib.sha256(ids.encode()).hexdigest()
        if digest != entry.ids_sha256:
            raise ValueError(f"side table {self.name}: these rows are not those of shard {shard}")
        self._check_lock()
        try:
            size, sha256 = self._replace(shard, pa.Table.from_pylist(list(map(dict, rows)), schema=self._schema))
            side = SideEntry(
                table=self.name,
                shard=shard,
                rows=len(rows),
                bytes=size,
                sha256=sha256,
                ids_sha256=digest,
                shard_sha256=entry.files[0].sha256,
                columns=self._columns,
                origin=dict(origin),
            )
            append_side(self._run_dir, side)  # the commit
        except OSError as error:
            raise RunError(f"the side table {self.name} cannot be written ({reason(error)})") from error
        self.manifest.side[self.name, shard] = side

    def _replace(self, shard: int, table: pa.Table) -> tuple[int, str]:
        """Write a file under its final name; returns its size and SHA-256. Until it is listed it is an orphan."""
        self._refuse_older_programs()
        target = self._run_dir / self.manifest.part_of(shard).layout.side_file(shard, self.name)
        files.make_dir(target.parent)
        part = files.temporary(target)
        with files.durable(part) as opened:
            file = HashedFile(opened)
            with parquet_file(file, self._schema) as add:
                add(table)
        earlier = self.manifest.side.get((self.name, shard))
        if earlier is not None:
            # A crash before the new line must not leave the old line with the new file.
            append_side(self._run_dir, replace(earlier, shard_sha256=""))
        files.replace(part, target)
        return file.size, file.sha256

    def _refuse_older_programs(self) -> None:
        """Raise the version of a run that gets its first side table."""
        if self.manifest.header.version not in WITH_SIDE_TABLES:
            return
        manifest = read_manifest(self._run_dir)  # another table's writer may have raised it
        header = manifest.header
        if header.version in WITH_SIDE_TABLES:
            header = replace(header, version=WITH_SIDE_TABLES[header.version])
            write_manifest(self._run_dir, replace(manifest, header=header))
        self.manifest = replace(self.manifest, header=header)


def refuse_table(manifest: Manifest, name: str, schema: pa.Schema) -> None:
    """Refuse a side table whose name or columns a run cannot take.

    Raises:
        UserError: see :class:`SideWriter`.
    """
    if not TABLE_NAME.fullmatch(name) or name in RESERVED:
        raise UserError(
            f"side table {name!r}: a name has up to 40 lower-case letters, digits and _, begins with a letter, and is "
            f"not {', '.join(sorted(RESERVED))}; choose another"
        )
    columns = column_types(schema)
    for column in schema:
        if not is_feature(column.type):
            raise UserError(
                f"side table {name}: load_dataset cannot read the type {column.type} of its column {column.name!r}; "
                "use another one, such as a list, a struct or text"
            )
    tables = manifest.side_columns
    if tables.get(name, columns) != columns:
        raise UserError(
            f"side table {name}: the run has a table of this name with other columns ({', '.join(tables[name])}); "
            "choose another name"
        )
    taken = {"id": "the run", **dict.fromkeys(manifest.types, "the run")}
    for table, table_columns in tables.items():
        if table != name:
            taken |= dict.fromkeys(table_columns, f"its side table {table}")
    for column in columns:
        if column in taken:
            raise UserError(
                f"side table {name}: {taken[column]} has a column {column!r} already; choose another name for it"
            )
