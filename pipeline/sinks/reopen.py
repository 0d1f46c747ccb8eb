"""Open committed shards again so that missing rows can be made: for ``retry`` and for repairs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import CheckedCorpus, Row
from noisesmith.pipeline.schema import row_table, schema_of
from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import shards_in
from noisesmith.pipeline.sinks.layout import letters_file
from noisesmith.pipeline.sinks.location import writing
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest, salvage_manifest, write_manifest
from noisesmith.pipeline.sinks.reader import DamagedFile, read_file
from noisesmith.pipeline.sinks.rows import check_row, replays
from noisesmith.pipeline.sinks.run import RunState, open_run, refuse_other_run
from noisesmith.pipeline.sinks.verify import Findings, check_file, examine
from noisesmith.pipeline.storage.lock import hold


def reopen_failed(config: RunConfig, corpus: CheckedCorpus, before: RunState) -> tuple[RunState, int]:
    """Let the dead rows of an opened part be tried again. This session must be the run's only writer.

    Returns:
        The run opened again, and how many rows that were done are to be made now.

    Raises:
        UserError: as for :func:`open_run`.
    """
    run_dir = before.run_dir
    with writing(run_dir):
        manifest = read_manifest(run_dir)
        part = manifest.part_of_row(corpus.first)
        numbers = part.layout.numbers
        with_letters = shards_in(run_dir / "failed") & set(numbers)
        if not with_letters:
            return before, 0
        failed = [shard for shard, entry in manifest.entries.items() if entry.failed and shard in numbers]
        if failed:
            write_manifest(run_dir, stage_again(config, corpus, manifest, failed, trusted=True))
        for shard in with_letters:
            staging.retry_letters(run_dir, shard)
    now = open_run(config, corpus)
    state = replace(now, committed=before.committed + now.committed, lock=before.lock)
    return state, len(before.done) - len(state.done)


def repair_run(
    config: RunConfig,
    corpus: CheckedCorpus,
    note: Callable[[str], None],
    replayed: Collection[int] = (),
    later: Sequence[tuple[RunConfig, CheckedCorpus]] = (),
) -> tuple[Findings, RunState]:
    """Open the damaged shards of a run again, and remove what cannot be read, as the run's only writer.

    Lines of the manifest, files of dead letters and of side tables, and staged rows that cannot be read are removed. A
    shard of which one format is intact is committed again at once.

    Args:
        note: as for :func:`hold`.
        replayed: as for :func:`verify_run`.
        later: config and corpus of each further part of the run.

    Returns:
        What was wrong, and the first part without it; the next run generates the missing rows.

    Raises:
        UserError: the manifest's header is damaged, the run belongs to another config or corpus, or another session
            writes it.
    """
    run_dir = config.run_dir
    parts = [(config, corpus), *later]
    for (settings, prompts), header in zip(parts, salvage_manifest(run_dir)[0].parts, strict=True):
        refuse_other_run(settings, prompts, header)
    with hold(run_dir, note), writing(run_dir):
        found = examine(run_dir, replayed)
        damaged = set(found.shards)
        if found.lines:  # a damaged line does not say whose entry it was, so every shard without an entry is suspect
            damaged |= found.manifest.numbers - found.manifest.entries.keys()
        for path in found.files:
            path.unlink()
        for shard in shards_in(run_dir / "failed") & damaged:
            try:
                staging.read_letters(run_dir, shard)
            except UserError:
                letters_file(run_dir, shard).unlink()
        side = {key: entry for key, entry in found.manifest.side.items() if key not in found.side}
        manifest = replace(found.manifest, side=side)
        for (settings, prompts), header in zip(parts, manifest.parts, strict=True):
            manifest = stage_again(settings, prompts, manifest, damaged & set(header.layout.numbers))
        if found.lines or manifest != found.manifest:
            write_manifest(run_dir, manifest)
        states = [open_run(settings, prompts) for settings, prompts in parts]
        return found, states[0]


def stage_again(
    config: RunConfig, corpus: CheckedCorpus, manifest: Manifest, shards: Collection[int], *, trusted: bool = False
) -> Manifest:
    """Stage the intact rows of committed shards of the corpus's part, so that these shards can be opened again.

    Once such a shard is complete, it is committed again. No row is lost at any moment: until the manifest is replaced,
    the files are the truth and the staged rows are removed by the next opening; afterwards it is the other way round.

    Args:
        trusted: every row of a file that has its SHA-256 counts as intact, else each is checked.

    Returns:
        The manifest without these shards, which is to replace the run's.
    """
    layout = manifest.part_of_row(corpus.first).layout
    if shards:
        for shard, rows in groupby(corpus.rows(), lambda row: layout.shard_of(row.index)):
            if shard in shards:
                _stage_intact_rows(config, corpus, manifest, shard, rows, trusted)
    kept = {shard: entry for shard, entry in manifest.entries.items() if shard not in shards}
    return replace(manifest, entries=kept)


def _stage_intact_rows(
    config: RunConfig, corpus: CheckedCorpus, manifest: Manifest, shard: int, rows: Iterable[Row], trusted: bool
) -> None:
    run_dir = config.run_dir
    staged = staging.staged_rows(run_dir, shard)
    missing = {row.id: row for row in rows if row.index not in staged}
    paths = _files(run_dir, manifest, shard)
    if not trusted:
        paths = dict.fromkeys(paths, False)
    tables = _intact_rows(paths, missing, config, corpus, manifest)
    while together := list(islice(tables, staging.ROWS_PER_FILE)):
        staging.stage(run_dir, shard, pa.concat_tables(together))


def _files(run_dir: Path, manifest: Manifest, shard: int) -> dict[Path, bool]:
    """Return the files of a shard and whether each is intact, those that are first."""
    entry = manifest.entries.get(shard)
    intact = set()
    for file in entry.files if entry else ():
        if check_file(run_dir, file) is None:
            intact.add(file.path)
    header = manifest.part_of(shard)
    names = [header.layout.data_file(shard, kind) for kind in header.formats]
    names.sort(key=lambda name: name not in intact)
    return {run_dir / name: name in intact for name in names}


def _intact_rows(
    paths: Mapping[Path, bool], missing: dict[str, Row], config: RunConfig, corpus: CheckedCorpus, manifest: Manifest
) -> Iterator[pa.Table]:
    """Yield a table of each missing row that can be read and is intact, from the first file that has it.

    The corpus's own columns are taken from the corpus: a tar has no types for them.

    Args:
        paths: the files, and whether all rows of each are known to be intact.
    """
    header = manifest.part_of_row(corpus.first)
    schema = schema_of(header.columns, corpus.extra_schema)
    columns = [name for name in schema.names if name not in corpus.extra_schema.names]
    left = dict(missing)
    for path, known in paths.items():
        if not left:
            return
        try:
            for row in read_file(path, columns, header):
                wanted = left.get(row["id"])
                if wanted is not None and (known or _is_intact(row, config, manifest)):
                    yield row_table({**row, **wanted.extra}, schema)
                    del left[wanted.id]
        except DamagedFile:
            continue  # the rows behind the damage cannot be read, but another file may have them


def _is_intact(row: Mapping[str, Any], config: RunConfig, manifest: Manifest) -> bool:
    """Return whether a row agrees with itself and its noise can be rebuilt."""
    if any(check_row(row)):
        return False
    return replays(row, manifest) if config.replayable else True
