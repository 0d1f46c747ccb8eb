"""Make one run of the partitions of a dataset.

``merging.json`` is the first file in the new directory and the last to go: a directory that has it is an unfinished
merge, which the same command completes. The manifest appears in one piece once every file is there and was checked, so
that the directory is no run before, and a whole one after.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisesmith.pipeline.acceptance import accept_again
from noisesmith.pipeline.config import dump_config, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.merge.partitions import PartitionRun, find_partitions, join
from noisesmith.pipeline.merge.placing import place
from noisesmith.pipeline.report import renew_report
from noisesmith.pipeline.report.figures import read_operations
from noisesmith.pipeline.sinks import config_of_run
from noisesmith.pipeline.sinks.done import recover
from noisesmith.pipeline.sinks.layout import manifest_file
from noisesmith.pipeline.sinks.location import check_location, check_new, writing
from noisesmith.pipeline.sinks.manifest import read_manifest, write_manifest
from noisesmith.pipeline.storage import files
from noisesmith.pipeline.storage.home import location_of
from noisesmith.pipeline.storage.lock import hold

# Figures of a session that can be added up; rates and shares cannot.
_SUMS = ("seconds", "rows_written", "rows_failed", "retries", "rounds", "images_done")


@dataclass(frozen=True)
class Merged:
    """What a merged run holds: its rows, dead letters and shards, and how many of its shards are ``missing``."""

    rows: int
    failed: int
    shards: int
    missing: int


def merge(run_dirs: Sequence[Path], out: Path, note: Callable[[str], None], *, allow_missing: bool = False) -> Merged:
    """Join partitions into the run directory ``out``. They stay as they are.

    A shard's files become hard links to those of its partition where the file system has such links, else copies. The
    side tables and dead letters of committed shards come too; rows of shards that are not committed do not, nor do
    logs. Acceptance, card, figures and contact sheet are made from the rows of the whole run. After a kill the same
    call goes on.

    Args:
        run_dirs: at least one.
        note: called with one sentence when this waits for a lock or takes one over.
        allow_missing: whether partitions may be absent or unfinished; the merged run then lacks their shards.

    Raises:
        UserError: the partitions are not all of one dataset, a file of them is damaged, or ``out`` is not empty.
        RunError: a file cannot be written.
    """
    found = find_partitions(run_dirs, allow_missing=allow_missing)
    mark = _mark(found)
    check_location(out)
    _has_started(out, mark)  # a directory that is refused gets no lock file either
    with hold(out, note) as lock:
        with writing(out):
            if not _has_started(out, mark):
                files.write_atomic(_mark_file(out), files.json_line(mark))
            if not manifest_file(out).exists():
                place(found, out)
                lock.check()
                _commit(found, out)
            files.remove_temporaries(out)
            recover(out)
        settings = config_of_run(out)
        accept_again(out, settings, lock.check)
        renew_report(out, settings)
        lock.check()
        with writing(out):
            _mark_file(out).unlink()
    manifest = read_manifest(out)
    entries = manifest.entries.values()
    return Merged(
        rows=sum(entry.rows for entry in entries),
        failed=sum(len(entry.failed) for entry in entries),
        shards=manifest.shards,
        missing=manifest.missing,
    )


def _commit(found: Sequence[PartitionRun], out: Path) -> None:
    """Write the config and the sessions' figures of the whole run, and then its manifest, with which it exists."""
    first = found[0]
    values = {"output.dir": location_of(out), "partition": None}
    settings = load_config(first.run_dir / first.header.config_file, None, values)
    files.write_atomic(out / first.header.config_file, dump_config(settings).encode())
    figures = json.dumps({"operations": _operations(found)}, indent=2, ensure_ascii=False)
    files.write_atomic(out / "stats.json", figures.encode() + b"\n")
    write_manifest(out, join(found))


def _operations(found: Sequence[PartitionRun]) -> dict[str, Any]:
    """The figures of the partitions' last sessions, added up."""
    sums: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for run in found:
        figures = read_operations(run.run_dir)
        sums.update({name: figures[name] for name in _SUMS if name in figures})
        errors.update(figures.get("errors", {}))
    return {"partitions": len(found), **sums, "errors": dict(errors.most_common())}


def _mark(found: Sequence[PartitionRun]) -> dict[str, Any]:
    """What identifies a merge: the dataset, and which of its partitions."""
    header = found[0].header
    partitions = [str(run.partition) for run in found]
    return {"partitions": partitions, "config": header.config_digest, "corpus": header.corpus_digest}


def _mark_file(out: Path) -> Path:
    return out / "merging.json"


def _has_started(out: Path, mark: dict[str, Any]) -> bool:
    """Return whether the directory holds an unfinished merge of these partitions; refuse it where it is not empty."""
    with writing(out):
        if _mark_file(out).exists():
            if files.salvage_lines(_mark_file(out)) == [mark]:
                return True
            raise UserError(f"--out: {out} holds an unfinished merge of other partitions; choose an empty directory")
        if manifest_file(out).exists():
            raise UserError(f"--out: {out} is a run already; choose an empty or new directory")
    check_new(out)
    return False
