"""A part of a run in its directory: created, resumed, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from noisesmith.pipeline.config import RunConfig, dump_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import CheckedCorpus
from noisesmith.pipeline.schema import column_types, row_schema, schema_of
from noisesmith.pipeline.sinks.commit import Committer, commit_complete
from noisesmith.pipeline.sinks.done import DoneRows, read_done, recover, shards_in
from noisesmith.pipeline.sinks.header import PARTITIONED, VERSION, Header
from noisesmith.pipeline.sinks.layout import ShardLayout, manifest_file, staging_root
from noisesmith.pipeline.sinks.location import check_location, check_new, writing
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest, write_manifest
from noisesmith.pipeline.sinks.reader import read_shard
from noisesmith.pipeline.sinks.staging import read_staged, staged_rows
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.lock import Lock, hold
from noisesmith.pipeline.storage.paths import is_remote

MODEL_COLUMNS = ["generator", "generator_revision", "scorer", "scorer_revision"]


@dataclass(frozen=True)
class RunState:
    """An opened part of a run: whether it existed before, and which of its rows are done.

    Once all are, each of its shards is committed.

    ``header`` is that of the part. ``committed`` counts the shards that opening it has committed. ``lock`` is held by a
    session that goes on to write; a state without it is only for reading.
    """

    run_dir: Path
    resumed: bool
    header: Header
    done: DoneRows
    committed: int = 0
    lock: Lock | None = None

    def check_lock(self) -> None:
        """Make sure that this session may still write the directory.

        Raises:
            RunError: another session has taken the directory over.
        """
        if self.lock is not None:
            self.lock.check()

    def committer(self) -> Committer:
        """Return what adds to the part from here on, in this process; ``done`` stays as it is."""
        return Committer(self.run_dir, self.header, self.done.copy(), self.check_lock)


@contextmanager
def hold_run(config: RunConfig, corpus: CheckedCorpus, note: Callable[[str], None]) -> Iterator[RunState]:
    """Open a run like :func:`open_run`, as the directory's only writer while the block runs.

    Args:
        note: called with one sentence when this waits for a lock or takes one over.

    Raises:
        UserError: as for :func:`open_run`, or another session writes the directory.
    """
    _resumable(config, corpus)  # a directory that is refused gets no lock file either
    with hold(config.run_dir, note) as lock:
        yield replace(open_run(config, corpus), lock=lock)


def open_run(config: RunConfig, corpus: CheckedCorpus) -> RunState:
    """Create the run directory of a config, or resume the part of it that begins at the corpus's first row.

    Raises:
        UserError: the directory cannot be written, is no run, or belongs to a run of another config or corpus.
    """
    run_dir = config.run_dir
    manifest = _resumable(config, corpus)
    resumed = manifest is not None
    with writing(run_dir):
        if manifest is None:
            files.make_dir(run_dir)
            manifest = Manifest(new_header(config, corpus), {})
            write_manifest(run_dir, manifest)
        part = manifest.part_of_row(corpus.first)
        for kind in part.formats:
            files.make_dir(run_dir / part.layout.folder(kind))
        files.write_atomic(run_dir / part.config_file, dump_config(config).encode())
        files.remove_temporaries(run_dir)
        done = recover(run_dir, corpus.first)
        schema = schema_of(part.columns, corpus.extra_schema)
        committed = commit_complete(Committer(run_dir, part, done), schema)
    return RunState(run_dir, resumed, part, done, committed)


def check_run_dir(config: RunConfig, corpus: CheckedCorpus) -> int:
    """Refuse what :func:`open_run` would refuse, and write nothing.

    Returns:
        How many rows of the part are done already.

    Raises:
        UserError: as for :func:`open_run`.
    """
    manifest = _resumable(config, corpus)
    if manifest is None:
        return 0
    return len(read_done(config.run_dir, manifest, manifest.part_of_row(corpus.first)))


def started_corpus(config: RunConfig) -> str | None:
    """Return the digest of the corpus of the part that a config resumes; ``None`` where there is none to resume."""
    part = started_part(config)
    return None if part is None else part.corpus_digest


def started_part(config: RunConfig) -> Header | None:
    """Return the part that a config resumes; ``None`` where there is no run to resume.

    Where the config is that of no part, it is the first one, for :func:`open_run` to refuse.
    """
    manifest = started_manifest(config)
    if manifest is None:
        return None
    return part_with(manifest, config) or manifest.header


def part_with(manifest: Manifest, config: RunConfig, below: float | None = None) -> Header | None:
    """Return the part that was made with a config.

    Args:
        below: that of a part which continues searches.
    """
    for part in manifest.parts:
        if part.below == below and not config.differences(part.config):
            return part
    return None


def started_manifest(config: RunConfig) -> Manifest | None:
    """Return the manifest of the run of a config; ``None`` where there is none to resume.

    What is wrong with the directory is left for :func:`open_run` to refuse.
    """
    run_dir = config.run_dir
    if "\0" in str(run_dir):
        return None
    with suppress(UserError), writing(run_dir):
        if is_remote(run_dir):
            run_dir.check()
        if manifest_file(run_dir).exists():
            return read_manifest(run_dir)
    return None


def made_with(config: RunConfig) -> dict[str, str] | None:
    """Return the models and their revisions that the first row of the run of a config records.

    Returns:
        the columns :data:`MODEL_COLUMNS` of a committed row, or else of a staged one; ``None`` where there is no row
        that can be read.
    """
    run_dir = config.run_dir
    manifest = started_manifest(config)
    if manifest is None:
        return None
    with suppress(UserError, OSError):
        for _, entry in sorted(manifest.entries.items()):
            for row in read_shard(run_dir, manifest, entry, MODEL_COLUMNS):
                return row
        for shard in sorted(shards_in(staging_root(run_dir))):
            for table in read_staged(run_dir, shard, staged_rows(run_dir, shard)):
                staged: dict[str, str] = table.select(MODEL_COLUMNS).to_pylist()[0]
                return staged
    return None


def _resumable(config: RunConfig, corpus: CheckedCorpus) -> Manifest | None:
    """Return the manifest of the run to resume, or ``None`` where a new run may start."""
    run_dir = config.run_dir
    check_location(run_dir)
    with writing(run_dir):
        if manifest_file(run_dir).exists():
            manifest = read_manifest(run_dir)
            refuse_other_run(config, corpus, manifest.part_of_row(corpus.first))
            return manifest
    check_new(run_dir)
    return None


def new_header(config: RunConfig, corpus: CheckedCorpus) -> Header:
    """Return the header of a new run of these prompts."""
    layout = ShardLayout(corpus.whole, config.output.rows_per_shard)
    return Header(
        version=VERSION if config.partition is None else PARTITIONED,
        config=config.semantic(),
        config_digest=config.digest(),
        corpus_digest=corpus.digest,
        rows=corpus.whole,
        rows_per_shard=layout.rows_per_shard,
        shards=layout.shards,
        formats=config.output.formats,
        columns=column_types(row_schema(config, corpus.extra_schema)),
        partition=config.partition,
    )


def refuse_other_run(config: RunConfig, corpus: CheckedCorpus, old: Header) -> None:
    """Refuse to resume a run, or a part of it, that another config or corpus has started.

    An older version may have started the run. A config field that it did not have, and that is left at its default, is
    no difference; so the fields are compared, and not the digests.

    Raises:
        UserError: the config, the corpus or the partition differs; the message names the fields.
    """
    what = f"output.dir: {config.run_dir}"
    remedy = "restore it, or choose another output.dir"
    if old.number:
        what = f"{config.run_dir}: the part of {old.config_file}"
        remedy = "restore it, and add further prompts with a file of their own"
    changes = config.differences(old.config)
    if changes:
        raise UserError(f"{what} was started with another config: {'; '.join(changes)}; {remedy}")
    if old.corpus_digest != corpus.digest:
        raise UserError(
            f"{what} was started with another corpus: corpus digest was {old.corpus_digest[:12]} of "
            f"{old.rows} rows and is now {corpus.digest[:12]} of {corpus.whole}; {remedy}"
        )
    if old.partition != config.partition:
        held = "all rows" if old.partition is None else f"the partition {old.partition}"
        asked = "all rows" if config.partition is None else f"the partition {config.partition}"
        again = "without --partition" if old.partition is None else f"with --partition {old.partition}"
        raise UserError(f"{what} holds {held}, not {asked}; run it again {again}, or choose another output.dir")
