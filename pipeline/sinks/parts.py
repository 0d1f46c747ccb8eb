"""Begin a further part of a finished run: one atomic replacement of its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from noisesmith.pipeline.config import RunConfig, dump_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import CheckedCorpus
from noisesmith.pipeline.schema import PARENT, column_types, reserved_columns, schema_of
from noisesmith.pipeline.sinks.header import EXTENDED, STOP_RULES, Header
from noisesmith.pipeline.sinks.location import writing
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest, write_manifest
from noisesmith.pipeline.sinks.run import RunState, new_header, open_run, part_with
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.lock import hold

_MAY_DIFFER = ("corpus.", *(f"{key} " for key in STOP_RULES))


@contextmanager
def hold_part(
    config: RunConfig,
    corpus: CheckedCorpus,
    note: Callable[[str], None],
    parents: Sequence[int] = (),
    below: float | None = None,
) -> Iterator[RunState]:
    """Open the part of a run with this config, or begin it, as the directory's only writer while the block runs.

    Args:
        corpus: its rows come after those of the run, or are those of the part that was started.
        note: called with one sentence when this waits for a lock or takes one over.
        parents, below: as in the part's header.

    Raises:
        UserError: as for :func:`check_part` and :func:`open_run`, or another session writes the directory.
    """
    with hold(config.run_dir, note) as lock:
        with writing(config.run_dir):
            manifest = read_manifest(config.run_dir)
            if part_with(manifest, config, below) is None:
                _begin(config, corpus, manifest, tuple(parents), below)
        yield replace(open_run(config, corpus), lock=lock)


def check_part(config: RunConfig, corpus: CheckedCorpus, manifest: Manifest, *, continues: bool) -> None:
    """Refuse a part that a run cannot take.

    Args:
        continues: whether it continues searches.

    Raises:
        UserError: the run is a partition or not finished, or the config or the columns of the corpus do not fit those
            of the run.
    """
    run_dir = config.run_dir
    refuse_partition(run_dir, manifest)
    if manifest.missing:
        raise UserError(
            f"{run_dir}: {manifest.missing} of {manifest.shards} shards are not committed yet; finish the run with "
            "noisesmith retry, then extend it"
        )
    for change in config.differences(manifest.header.config):
        if not change.startswith(_MAY_DIFFER):
            raise UserError(
                f"{run_dir}: {change}; only the corpus and {', '.join(STOP_RULES)} may differ from those of the run, "
                "so make another run"
            )
    _check_columns(config, corpus, manifest.header)
    if continues:
        _check_parent_column(config, manifest.header)


def refuse_partition(run_dir: Path, manifest: Manifest) -> None:
    """Refuse a run beside which others make rows and shards of the same dataset.

    Raises:
        UserError: it is one.
    """
    partition = manifest.header.partition
    if partition is not None:
        raise UserError(
            f"{run_dir}: is the partition {partition} of a dataset, and other runs make the other rows; join them with "
            "noisesmith merge, then extend the merged run"
        )


def _check_columns(config: RunConfig, corpus: CheckedCorpus, header: Header) -> None:
    """Refuse prompts whose own columns are not among those of the run; missing ones are null."""
    run_dir = config.run_dir
    reserved = reserved_columns(config, started=header.version_of_rows < 5)
    for name, kind in column_types(corpus.extra_schema).items():
        if name not in header.columns or name in reserved:
            raise UserError(
                f"corpus: has a column {name!r}, which the rows of {run_dir} do not have; leave it out with "
                f"'corpus.columns.drop=[{name}]'"
            )
        if kind != header.columns[name]:
            raise UserError(
                f"corpus: its column {name!r} is of type {kind}, and in {run_dir} it is of type "
                f"{header.columns[name]}; set its type in corpus.columns.types, or leave it out"
            )
    try:
        schema_of(header.columns, corpus.extra_schema)
    except ValueError as error:
        raise UserError(f"corpus: lacks a column that {run_dir} has ({error}); add it with empty values") from error


def _check_parent_column(config: RunConfig, header: Header) -> None:
    names = list(header.columns)
    if PARENT in names and names.index(PARENT) > names.index("recipe"):  # the corpus's own columns come last
        raise UserError(
            f"{config.run_dir}: its prompts have a column {PARENT!r} of their own, which the rows of continued "
            "searches need; its searches cannot be continued"
        )


def _begin(
    config: RunConfig, corpus: CheckedCorpus, manifest: Manifest, parents: tuple[int, ...], below: float | None
) -> None:
    if corpus.first != manifest.rows:
        raise UserError(f"{config.run_dir}: was extended by another session a moment ago; run the same command again")
    check_part(config, corpus, manifest, continues=bool(parents))
    first = manifest.header
    columns = dict(first.columns)
    if parents:
        columns.setdefault(PARENT, "string")
    part = replace(
        new_header(config, corpus),
        version=first.version_of_rows,
        formats=first.formats,
        columns=columns,
        number=len(manifest.parts),
        first_row=manifest.rows,
        first_shard=manifest.shards,
        parents=parents,
        below=below,
    )
    # A crash between the two leaves a config of no part, which the same command replaces.
    files.write_atomic(config.run_dir / part.config_file, dump_config(config).encode())
    header = replace(first, version=EXTENDED.get(first.version, first.version))
    write_manifest(config.run_dir, replace(manifest, header=header, later=(*manifest.later, part)))
