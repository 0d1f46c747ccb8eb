"""Committed shards made open again, so that a row that is missing there can be made: for ``retry`` and for repairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import RunConfig
from pipeline.records import Row
from pipeline.sinks import staging
from pipeline.sinks.done import shards_in
from pipeline.sinks.manifest import Manifest, read_manifest, write_manifest
from pipeline.sinks.reader import read_file
from pipeline.sinks.run import RunState, open_run
from pipeline.sinks.schema import row_schema, row_table
from pipeline.sinks.verify import check_file, check_row

if TYPE_CHECKING:
    from pipeline.prompts import Corpus


def reopen_failed(config: RunConfig, corpus: Corpus, before: RunState) -> tuple[RunState, int]:
    """Let the dead rows of an opened run, of which this is the only writer, be tried again.

    Returns:
        The run opened anew, and how many rows done before are now to do.

    Raises:
        UserError: as for :func:`~pipeline.sinks.run.open_run`.
    """
    manifest = read_manifest(before.run_dir)
    reopen(config, corpus, manifest, [shard for shard, entry in manifest.entries.items() if entry.failed])
    for shard in shards_in(before.run_dir / "failed"):
        staging.withdraw_letters(before.run_dir, shard)
    state = replace(open_run(config, corpus), lock=before.lock)
    return state, len(before.done) - len(state.done)


def reopen(config: RunConfig, corpus: Corpus, manifest: Manifest, shards: Iterable[int]) -> None:
    """Take shards out of the manifest, the sound rows of their files staged: once complete they are committed anew.

    No row is lost at any moment: before the manifest is replaced the staged rows are what a crash leaves over, after it
    the files are, and the next opening of the run sweeps them.
    """
    if not (shards := set(shards)):
        return
    run_dir, schema, plan = config.run_dir, row_schema(config, corpus.extra_schema), manifest.header.plan
    columns = [name for name in schema.names if name not in corpus.extra_schema.names]
    for shard, rows in groupby(corpus.rows(), lambda row: plan.shard_of(row.index)):
        if shard not in shards:
            continue
        staged = staging.staged_rows(run_dir, shard)
        wanted = {row.id: row for row in rows if row.index not in staged}
        for row in _sound_rows(_files(run_dir, manifest, shard), columns, wanted):
            table = row_table({**row, **wanted[row["id"]].extra}, schema)
            staging.stage(run_dir, shard, row["id"], table)
    kept = [entry for shard, entry in sorted(manifest.entries.items()) if shard not in shards]
    write_manifest(run_dir, manifest.header, kept)


def _files(run_dir: Path, manifest: Manifest, shard: int) -> list[Path]:
    """The files of a shard, those that are as the manifest says before all others."""
    entry = manifest.entries.get(shard)
    whole = {file.path for file in entry.files if check_file(run_dir, file) is None} if entry else set()
    names = [manifest.header.plan.data_file(shard, kind) for kind in manifest.header.formats]
    return [run_dir / name for name in sorted(names, key=lambda name: name not in whole)]


def _sound_rows(paths: list[Path], columns: list[str], wanted: dict[str, Row]) -> Iterator[dict[str, Any]]:
    """Those of the wanted rows, by id, that can be read and are sound in themselves, from the first file that has them.

    The corpus's own columns are left out: a tar has no types for them, and the corpus has them as they were.
    """
    left = set(wanted)
    for path in paths:
        try:
            for row in read_file(path, columns) if left else ():
                if row["id"] in left and row["prompt"] == wanted[row["id"]].prompt and not any(check_row(row)):
                    left.discard(row["id"])
                    yield row
        except Exception:  # a damaged file can make its reader raise anything, and has no more rows to give
            continue
