"""The two-phase commit of a shard.

Any process may stage rows and prepare the files of a shard: they are complete and on disk, under names that no other
call has. One process alone does the rest: first the files get their final names, then one line is added to the
manifest. After a crash before that line the files are orphans to remove, and every row is still staged. After a crash
behind it the shard is committed, and only its staging folder is left to remove.
"""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from noisesmith.pipeline.records import Failure
from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import DoneRows, sweep
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.layout import staging_dir
from noisesmith.pipeline.sinks.manifest import DataFile, Entry, append_entry, read_manifest
from noisesmith.pipeline.sinks.shards import AddRow, HashedFile, parquet_file, tar_file
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.paths import is_remote


@dataclass(frozen=True)
class Prepared:
    """The files of a shard before its commit, each with the path at which it lies for now.

    ``rows`` are the indices of the rows that they hold.
    """

    shard: int
    rows: tuple[int, ...]
    ids_sha256: str
    files: tuple[tuple[Path, DataFile], ...]


def prepare(run_dir: Path, header: Header, schema: pa.Schema, shard: int, rows: Mapping[int, str]) -> Prepared:
    """Write the files of a shard, each under a name that no other call has.

    Args:
        rows: the index of each of its staged rows, and the name of its file; every other row is a dead letter.

    Raises:
        UserError: a file of staged rows is damaged.
        OSError: the files cannot be written, or staged rows are gone.
    """
    ids = hashlib.sha256()
    kinds = header.formats if rows else ()
    targets = [run_dir / header.layout.data_file(shard, kind) for kind in kinds]
    parts = [files.temporary(target) for target in targets]
    hashed: list[HashedFile] = []
    with ExitStack() as stack:
        add: list[AddRow] = []
        for part in parts:
            hashed.append(HashedFile(stack.enter_context(files.durable(part))))
            add.append(stack.enter_context(_format(part, hashed[-1], header, schema)))
        try:
            for row in staging.read_staged(run_dir, shard, rows):
                ids.update(f"{row['id'][0].as_py()}\n".encode())
                for add_row in add:
                    add_row(row)
        except FileNotFoundError as error:
            # A row counts as staged from memory. If its file is gone (removed by hand, or a store that lost it), a
            # commit would leave the row out of the dataset for good.
            raise FileNotFoundError(
                errno.ENOENT, "staged rows have vanished", str(staging_dir(run_dir, shard))
            ) from error
    made = []
    for target, part, file in zip(targets, _uploaded(parts, targets), hashed, strict=True):
        name = str(target.relative_to(run_dir))
        made.append((part, DataFile(name, file.size, file.sha256, len(rows))))
    return Prepared(shard, tuple(sorted(rows)), ids.hexdigest(), tuple(made))


def _format(part: Path, file: HashedFile, header: Header, schema: pa.Schema) -> AbstractContextManager[AddRow]:
    if ".parquet." in part.name:
        return parquet_file(file, schema)
    return tar_file(file, header.text_columns, header.tar_columns)


def _uploaded(parts: list[Path], targets: list[Path]) -> list[Path]:
    """Bring local files next to their final names where those are in an object store; on a disk they are there."""
    found = []
    try:
        for part, target in zip(parts, targets, strict=True):
            there = files.beside(target)
            if is_remote(target):
                files.replace(part, there)
            found.append(there if is_remote(target) else part)
    except BaseException:
        for part in parts:
            part.unlink(missing_ok=True)
        raise
    return found


class Committer:
    """What one process alone does for a part of a run: it commits shards, records dead letters, and knows what is done.

    :meth:`bury` and :meth:`commit` wait for the disk. Several threads may call them at the same time.

    Args:
        done: which rows are done; kept up to date.
        check_lock: raises where this process may no longer write the run.
    """

    def __init__(
        self, run_dir: Path, header: Header, done: DoneRows, check_lock: Callable[[], None] = lambda: None
    ) -> None:
        self.run_dir = run_dir
        self.header = header
        self.done = done
        self._check_lock = check_lock
        self._adding = threading.Lock()  # to a file of lines: in an object store that replaces the whole file

    def complete(self) -> list[int]:
        """Return the open shards that miss no row, in order."""
        return [shard for shard in self.done.open_shards() if self.done.is_complete(shard)]

    def accept(self, staged: staging.Staged) -> list[int]:
        """Count rows as done once they are staged, in place of earlier versions of them.

        Rows of a committed shard are dropped: a row may be made twice, but is committed exactly once.

        Returns:
            the shard, if it is complete now.
        """
        shard = staged.shard
        if shard in self.done.committed:
            return []
        self.done.staged[shard] |= dict.fromkeys(staged.rows, staged.file)
        return [shard] if self.done.is_complete(shard) else []

    def bury(self, failure: Failure) -> None:
        """Write the dead letter of a row that failed for good. A row that is already written gets none.

        Raises:
            OSError: this failed.
        """
        shard = self.done.layout.shard_of(failure.row.index)
        with self._adding:
            if self._is_written(failure.row.index):
                return
            self._check_lock()
            staging.add_letter(self.run_dir, shard, failure)

    def accept_buried(self, index: int) -> list[int]:
        """Count a row as done once its dead letter is written. A row that is already written is kept instead.

        Returns:
            the row's shard, if it is complete now.
        """
        if self._is_written(index):
            return []
        shard = self.done.layout.shard_of(index)
        self.done.dead[shard].add(index)
        return [shard] if self.done.is_complete(shard) else []

    def commit(self, prepared: Prepared) -> None:
        """Give the files of a complete shard their final names, and add it to the manifest.

        Raises:
            OSError: this failed.
        """
        run_dir = self.run_dir
        shard = prepared.shard
        self._check_lock()
        for part, file in prepared.files:
            files.replace(part, run_dir / file.path)
        with self._adding:
            # A row may have failed and then succeeded in a later session: its staged file wins, and the letter goes.
            failed = set(self.done.layout.rows(shard)).difference(prepared.rows)
            letters = staging.keep_letters(run_dir, shard, failed)
            entry = Entry(
                shard=shard,
                rows=len(prepared.rows),
                failed=tuple(letter["id"] for letter in letters),
                ids_sha256=prepared.ids_sha256,
                files=tuple(file for _, file in prepared.files),
            )
            self._check_lock()
            append_entry(run_dir, entry)  # the commit: all before it can be repeated, all after it is clean-up
            self.done.commit(entry)
        staging.drop_staged(run_dir, shard)

    def _is_written(self, index: int) -> bool:
        """Return whether a row is staged, or in a committed shard."""
        shard = self.done.layout.shard_of(index)
        return shard in self.done.committed or index in self.done.staged.get(shard, {})

    def clean_up(self) -> None:
        """Remove what writers that died have left. Nothing that is still to be committed may be in the making."""
        self._check_lock()
        sweep(self.run_dir, read_manifest(self.run_dir))


def commit_complete(committer: Committer, schema: pa.Schema) -> int:
    """Commit every open shard that misses no row, in this process, and return how many there were."""
    complete = committer.complete()
    for shard in complete:
        rows = committer.done.staged.get(shard, {})
        committer.commit(prepare(committer.run_dir, committer.header, schema, shard, rows))
    staging.drop_empty(committer.run_dir)
    return len(complete)
