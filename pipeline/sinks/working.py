"""Reads all finished rows of a run that may be at work: those of committed shards, then those that are staged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noisesmith.pipeline.schema import with_image_bytes
from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import read_all_done
from noisesmith.pipeline.sinks.manifest import Manifest
from noisesmith.pipeline.sinks.reader import read_shard


def read_finished(
    run_dir: Path, manifest: Manifest, columns: list[str], shards: set[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the finished rows like :func:`read_rows`: committed shards in order, then staged rows.

    A staged row has no values of side tables. A shard that is committed while this reads its staged rows gives no more
    rows; the next call finds them in the manifest.

    Args:
        shards: read only the rows of these.

    Raises:
        UserError: a shard or a staged row is missing or damaged.
    """
    for shard, entry in sorted(manifest.entries.items()):
        if shards is None or shard in shards:
            yield from read_shard(run_dir, manifest, entry, columns)
    staged = [shard for done in read_all_done(run_dir, manifest) for shard in done.staged]
    for shard in sorted(staged):
        if shards is None or shard in shards:
            yield from _staged_rows(run_dir, shard, columns)


def _staged_rows(run_dir: Path, shard: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    unknown: dict[str, Any] = dict.fromkeys(columns)
    try:
        for table in staging.read_staged(run_dir, shard, staging.staged_rows(run_dir, shard)):
            (row,) = table.to_pylist()
            joined = unknown | with_image_bytes(row)
            yield {name: joined[name] for name in columns}
    except FileNotFoundError:  # the shard has been committed in the meantime
        return
