"""The two-phase commit of a shard.

First its files get their final names, then one line is added to the manifest. After a crash before that line the files
are orphans to remove, and every row is still staged. After a crash behind it the shard is committed, and only its
staging folder is left to remove.
"""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pyarrow as pa

from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import DoneRows
from noisesmith.pipeline.sinks.header import Header
from noisesmith.pipeline.sinks.layout import staging_dir
from noisesmith.pipeline.sinks.manifest import DataFile, Entry, append_entry
from noisesmith.pipeline.sinks.shards import write_parquet, write_tar
from noisesmith.pipeline.storage import files


def commit_complete(run_dir: Path, done: DoneRows, header: Header, schema: pa.Schema) -> list[int]:
    """Commit every open shard that misses no row, and return these shards in order."""
    return [shard for shard in done.open_shards() if commit_if_complete(run_dir, done, shard, header, schema)]


def commit_if_complete(run_dir: Path, done: DoneRows, shard: int, header: Header, schema: pa.Schema) -> bool:
    """Commit an open shard if each of its rows is staged or a dead letter, and record that in ``done``.

    Raises:
        OSError: the shard cannot be written, or rows that were staged are gone.
    """
    if not done.is_complete(shard):
        return False
    rows = staging.staged_rows(run_dir, shard)
    # `done` counts a row as staged from memory. If its file is gone (removed by hand, or a store that lost it), a
    # commit would leave the row out of the dataset for good.
    vanished = len(done.staged.get(shard, set()) - rows.keys())
    if vanished:
        raise FileNotFoundError(errno.ENOENT, f"{vanished} staged rows have vanished", str(staging_dir(run_dir, shard)))
    data_files = []
    if rows:
        for kind in header.formats:
            name = done.layout.data_file(shard, kind)
            data_files.append(_write(run_dir, name, list(rows.values()), header, schema))
    # A row may have failed and then succeeded in a later session: its staged file wins, and the letter goes.
    letters = staging.keep_letters(run_dir, shard, set(done.layout.rows(shard)) - rows.keys())
    ids = "".join(f"{path.stem}\n" for path in rows.values())
    entry = Entry(
        shard=shard,
        rows=len(rows),
        failed=tuple(letter["id"] for letter in letters),
        ids_sha256=hashlib.sha256(ids.encode()).hexdigest(),
        files=tuple(data_files),
    )
    append_entry(run_dir, entry)  # the commit: everything before it can be repeated, everything after it is clean-up
    done.commit(entry)
    staging.drop_staged(run_dir, shard)
    return True


def _write(run_dir: Path, name: str, staged: list[Path], header: Header, schema: pa.Schema) -> DataFile:
    """Write one format of a shard. The final name appears only once the file is complete and on disk."""
    target = run_dir / name
    part = files.temporary(target)
    with files.durable(part) as file:
        if target.suffix == ".parquet":
            write_parquet(file, staging.read_staged(staged), schema)
        else:
            write_tar(file, staging.read_staged(staged), header.text_columns, header.tar_columns)
    data_file = DataFile(name, part.stat().st_size, files.sha256_of(part), len(staged))
    files.replace(part, target)
    return data_file
