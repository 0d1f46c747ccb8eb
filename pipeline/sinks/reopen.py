"""Committed shards made open again, so that a row that is missing there can be made: for ``retry`` and for repairs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.schema import row_schema, row_table
from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import shards_in
from noisesmith.pipeline.sinks.layout import letters_file
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest, salvage_manifest, write_manifest
from noisesmith.pipeline.sinks.reader import read_file
from noisesmith.pipeline.sinks.run import RunState, open_run, refuse_other_run, writing
from noisesmith.pipeline.sinks.verify import Findings, check_file, check_row, examine, replays
from noisesmith.pipeline.storage.lock import hold

if TYPE_CHECKING:
    from noisesmith.pipeline.prompts import Corpus


def reopen_failed(config: RunConfig, corpus: Corpus, before: RunState) -> tuple[RunState, int]:
    """Let the dead rows of an opened run, of which this is the only writer, be tried again.

    Returns:
        The run opened anew, and how many rows done before are now to do.

    Raises:
        UserError: as for :func:`open_run`.
    """
    run_dir = before.run_dir
    with writing(run_dir):
        manifest, letters = read_manifest(run_dir), shards_in(run_dir / "failed")
        if not letters:
            return before, 0
        reopen(config, corpus, manifest, [shard for shard, entry in manifest.entries.items() if entry.failed])
        for shard in letters:
            staging.withdraw_letters(run_dir, shard)
    state = replace(open_run(config, corpus), lock=before.lock)
    return state, len(before.done) - len(state.done)


def repair_run(
    config: RunConfig, corpus: Corpus, note: Callable[[str], None], replayed: Collection[int] = ()
) -> tuple[Findings, RunState]:
    """Open the damaged shards of a run again, as its only writer, and drop what cannot be read of its manifest, dead
    letters and staged rows. A shard of which a sound form is left is committed anew at once.

    Args:
        note: as for :func:`hold`.
        replayed: as for :func:`verify_run`.

    Returns:
        What was wrong, and the run without it; the rows it lacks are to be made anew.

    Raises:
        UserError: the manifest's header is damaged, the run is another config's or corpus's, or it is being written.
    """
    run_dir = config.run_dir
    refuse_other_run(config, corpus, salvage_manifest(run_dir)[0].header)
    with hold(run_dir, note), writing(run_dir):
        found = examine(run_dir, replayed)
        entries, damaged = found.manifest.entries, set(found.shards)
        if found.lines:  # whose entries they were nobody knows
            damaged |= set(range(found.manifest.header.shards)) - entries.keys()
        for path in found.files:
            path.unlink()
        for shard in shards_in(run_dir / "failed") & damaged:
            try:
                staging.read_letters(run_dir, shard)
            except UserError:
                letters_file(run_dir, shard).unlink()
        reopen(config, corpus, found.manifest, damaged)
        return found, open_run(config, corpus)


def reopen(config: RunConfig, corpus: Corpus, manifest: Manifest, shards: Iterable[int]) -> None:
    """Take shards out of the manifest, the sound rows of their files staged: once complete they are committed anew.

    No row is lost at any moment: before the manifest is replaced the staged rows are what a crash leaves over, after it
    the files are, and the next opening of the run sweeps them.
    """
    run_dir, plan, shards = config.run_dir, manifest.header.plan, set(shards)
    for shard, rows in groupby(corpus.rows(), lambda row: plan.shard_of(row.index)) if shards else ():
        if shard not in shards:
            continue
        staged = staging.staged_rows(run_dir, shard)
        wanted = {row.id: row for row in rows if row.index not in staged}
        for row_id, table in _sound_rows(_files(run_dir, manifest, shard), wanted, config, corpus):
            staging.stage(run_dir, shard, row_id, table)
    kept = [entry for shard, entry in sorted(manifest.entries.items()) if shard not in shards]
    write_manifest(run_dir, manifest.header, kept)


def _files(run_dir: Path, manifest: Manifest, shard: int) -> list[Path]:
    """The files of a shard, those that are as the manifest says before all others."""
    entry = manifest.entries.get(shard)
    whole = {file.path for file in entry.files if check_file(run_dir, file) is None} if entry else set()
    names = [manifest.header.plan.data_file(shard, kind) for kind in manifest.header.formats]
    return [run_dir / name for name in sorted(names, key=lambda name: name not in whole)]


def _sound_rows(
    paths: list[Path], wanted: dict[str, Row], config: RunConfig, corpus: Corpus
) -> Iterator[tuple[str, pa.Table]]:
    """Those of the wanted rows, by id, that can be read and are sound in themselves, from the first file that has them.

    The corpus's own columns are taken from the corpus: a tar has no types for them.
    """
    schema = row_schema(config, corpus.extra_schema)
    columns = [name for name in schema.names if name not in corpus.extra_schema.names]
    left = dict(wanted)
    for path in paths:
        try:
            for row in read_file(path, columns) if left else ():
                if row["id"] not in left or any(check_row(row)) or (config.replayable and not replays(row)):
                    continue
                table = row_table({**row, **left[row["id"]].extra}, schema)
                del left[row["id"]]
                yield row["id"], table
        except Exception:  # a damaged file can make its reader raise anything, and has no more rows to give
            continue
