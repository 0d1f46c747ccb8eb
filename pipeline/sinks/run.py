"""A run directory: created, resumed, or refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import RunConfig, dump_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.schema import column_types, row_schema
from noisesmith.pipeline.sinks.commit import commit_complete
from noisesmith.pipeline.sinks.done import DoneRows, read_done, recover
from noisesmith.pipeline.sinks.layout import ShardPlan, manifest_file
from noisesmith.pipeline.sinks.manifest import Header, Manifest, read_manifest, write_manifest
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.lock import Lock, hold, lock_file
from noisesmith.pipeline.storage.paths import is_remote

if TYPE_CHECKING:
    from noisesmith.pipeline.prompts import Corpus


@dataclass(frozen=True)
class RunState:
    """An opened run: whether it existed, and which rows are done. Once all are, every shard is committed.

    ``lock`` is held by whoever goes on to write; without it nobody else may.
    """

    run_dir: Path
    resumed: bool
    done: DoneRows
    lock: Lock | None = None

    def check_lock(self) -> None:
        """
        Raises:
            RunError: the directory is no longer this session's to write.
        """
        if self.lock is not None:
            self.lock.check()


@contextmanager
def hold_run(config: RunConfig, corpus: Corpus, note: Callable[[str], None]) -> Iterator[RunState]:
    """:func:`open_run`, as the directory's only writer while the block runs.

    Args:
        note: told in one sentence when a lock is waited for or taken over.

    Raises:
        UserError: as for :func:`open_run`, or another session writes the directory.
    """
    _resumable(config, corpus)
    with hold(config.run_dir, note) as lock:
        yield replace(open_run(config, corpus), lock=lock)


def open_run(config: RunConfig, corpus: Corpus) -> RunState:
    """Create or resume the run directory of a config.

    Raises:
        UserError: the directory cannot be written, is no run, or was made from another config or corpus.
    """
    run_dir = config.run_dir
    old = _resumable(config, corpus)
    with writing(run_dir):
        if old is None:
            files.make_dir(run_dir)
            write_manifest(run_dir, _header(config, corpus))
        files.make_dir(run_dir / "data")
        files.write_atomic(run_dir / "config.yaml", dump_config(config).encode())
        for path in filter(files.is_temporary, list(run_dir.iterdir())):
            path.unlink(missing_ok=True)  # that of a beating lock may be gone by now
        done = recover(run_dir)
        commit_complete(run_dir, done, config.output.formats, row_schema(config, corpus.extra_schema))
    return RunState(run_dir, old is not None, done)


def check_run_dir(config: RunConfig, corpus: Corpus) -> int:
    """Refuse what :func:`open_run` would refuse, and write nothing.

    Returns:
        How many rows are done already.

    Raises:
        UserError: as for :func:`open_run`.
    """
    manifest = _resumable(config, corpus)
    return len(read_done(config.run_dir, manifest)) if manifest else 0


def _resumable(config: RunConfig, corpus: Corpus) -> Manifest | None:
    """The manifest of the run to go on with; ``None`` where one may begin."""
    run_dir = config.run_dir
    if "\0" in str(run_dir):
        raise UserError(f"output.dir: {str(run_dir)!r} holds a NUL character; choose another output.dir")
    with writing(run_dir):
        _check_place(run_dir)
        if manifest_file(run_dir).exists():
            manifest = read_manifest(run_dir)
            refuse_other_run(config, corpus, manifest.header)
            return manifest
        if run_dir.exists() and any(map(_is_foreign, run_dir.iterdir())):
            raise UserError(f"output.dir: {run_dir} holds files but no run; choose an empty or new directory")
    return None


def _check_place(run_dir: Path) -> None:
    if is_remote(run_dir):
        run_dir.check()
        return
    nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise UserError(f"output.dir: {nearest} is not a directory; choose another output.dir")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"output.dir: {nearest} cannot be written; choose another output.dir or allow writing")


def _is_foreign(path: Path) -> bool:
    """Whether a file is none that a run leaves before it has a manifest."""
    return not files.is_temporary(path) and path != lock_file(path.parent)


def _header(config: RunConfig, corpus: Corpus) -> Header:
    plan = ShardPlan(corpus.size, config.output.rows_per_shard)
    return Header(
        config=config.semantic(),
        config_digest=config.digest(),
        corpus_digest=corpus.digest,
        rows=corpus.size,
        rows_per_shard=plan.rows_per_shard,
        shards=plan.shards,
        formats=config.output.formats,
        columns=column_types(row_schema(config, corpus.extra_schema)),
    )


def refuse_other_run(config: RunConfig, corpus: Corpus, old: Header) -> None:
    """
    Raises:
        UserError: the run of this header was begun with another config or corpus; the fields that differ are named.
    """
    run_dir, new = config.run_dir, _header(config, corpus)
    remedy = "restore it, or choose another output.dir"
    if old.config_digest != new.config_digest:
        absent = "(absent)"
        changes = [
            f"{key} was {old.config.get(key, absent)!r} and is now {new.config.get(key, absent)!r}"
            for key in sorted(old.config.keys() | new.config.keys())
            if old.config.get(key, absent) != new.config.get(key, absent)
        ]
        raise UserError(f"output.dir: {run_dir} was begun with another config: {'; '.join(changes)}; {remedy}")
    if old.corpus_digest != new.corpus_digest:
        raise UserError(
            f"output.dir: {run_dir} was begun with another corpus: corpus digest was {old.corpus_digest[:12]} of "
            f"{old.rows} rows and is now {new.corpus_digest[:12]} of {new.rows}; {remedy}"
        )


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Says in one sentence why a run directory, or a place for one, cannot be used.

    Raises:
        UserError: the block has met an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        remedy = "choose another output.dir"
        if is_remote(run_dir):
            remedy = "check the store's address and the network"
            if isinstance(error, FileNotFoundError):
                remedy = "make the bucket, or choose another output.dir"
            elif isinstance(error, PermissionError):
                remedy = "renew the credentials in the environment, or choose an output.dir they may write to"
        elif error.errno == errno.ENOSPC:
            remedy = "make room, or choose another output.dir"
        message = f"output.dir: {run_dir} cannot be written ({error.strerror or error}); {remedy}"
        raise UserError(message) from None
