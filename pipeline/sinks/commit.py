"""The two-phase commit of a shard. A crash before the manifest's line leaves an orphan to sweep and every row staged;
a crash after it leaves a committed shard and a staging folder to sweep."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import DoneRows
from noisesmith.pipeline.sinks.layout import staging_dir
from noisesmith.pipeline.sinks.manifest import DataFile, Entry, append_entry
from noisesmith.pipeline.sinks.shards import write_parquet, write_tar
from noisesmith.pipeline.storage import files


def commit_complete(run_dir: Path, done: DoneRows, formats: Sequence[str], schema: pa.Schema) -> list[int]:
    """Commit every open shard that lacks no row; returns them, in order."""
    return [shard for shard in done.open_shards() if commit_if_complete(run_dir, done, shard, formats, schema)]


def commit_if_complete(run_dir: Path, done: DoneRows, shard: int, formats: Sequence[str], schema: pa.Schema) -> bool:
    """Commit an open shard, and note it in ``done``, if each of its rows is staged or a dead letter.

    Raises:
        OSError: it cannot be written, or rows once staged are no longer there.
    """
    if not done.is_complete(shard):
        return False
    rows = staging.staged_rows(run_dir, shard)
    if vanished := len(done.staged.get(shard, set()) - rows.keys()):
        raise FileNotFoundError(errno.ENOENT, f"{vanished} staged rows have vanished", str(staging_dir(run_dir, shard)))
    data_files = [
        _write(run_dir, done.plan.data_file(shard, kind), list(rows.values()), schema) for kind in formats if rows
    ]
    letters = staging.keep_letters(run_dir, shard, set(done.plan.rows(shard)) - rows.keys())
    ids = "".join(f"{path.stem}\n" for path in rows.values())
    entry = Entry(
        shard=shard,
        rows=len(rows),
        failed=tuple(letter["id"] for letter in letters),
        ids_sha256=hashlib.sha256(ids.encode()).hexdigest(),
        files=tuple(data_files),
    )
    append_entry(run_dir, entry)
    done.commit(entry)
    staging.drop_staged(run_dir, shard)
    return True


def _write(run_dir: Path, name: str, staged: list[Path], schema: pa.Schema) -> DataFile:
    """One format of a shard, whole under its final name."""
    target = run_dir / name
    part = files.temporary(target)
    with files.durable(part) as file:
        if target.suffix == ".parquet":
            write_parquet(file, staging.read_staged(staged), schema)
        else:
            write_tar(file, staging.read_staged(staged))
    data_file = DataFile(name, part.stat().st_size, files.sha256_of(part), len(staged))
    files.replace(part, target)
    return data_file
