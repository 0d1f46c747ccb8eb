"""What a run reports about itself: figures, dataset card, contact sheet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from noisesmith.pipeline.acceptance import accept_again
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, reason
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.report.card import describes, render_card, write_card
from noisesmith.pipeline.report.contact_sheet import write_contact_sheet
from noisesmith.pipeline.report.facts import read_facts
from noisesmith.pipeline.report.figures import read_operations
from noisesmith.pipeline.report.sample import spread_rows
from noisesmith.pipeline.report.summary import Summary, summary_table
from noisesmith.pipeline.report.usage import Place
from noisesmith.pipeline.sinks.configs import first_config
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest
from noisesmith.pipeline.sinks.reader import read_rows
from noisesmith.pipeline.sinks.run import RunState
from noisesmith.pipeline.storage.files import write_atomic

__all__ = [
    "Summary",
    "conclude",
    "describes",
    "published_card",
    "renew_report",
    "rewrite_report",
    "summary_table",
    "write_report",
]

SHEET_ROWS = 24


def write_report(run_dir: Path, config: RunConfig, provenance: Provenance, operations: Mapping[str, object]) -> Summary:
    """Write ``stats.json``, ``README.md`` and ``contact_sheet.png`` of the rows committed so far.

    Each file appears whole or not at all. The card is written last, since it proves that the report is complete (see
    :func:`renew_report`).

    Args:
        operations: what the driver measured (seconds, rows per minute, busy shares …); it goes into ``stats.json``.

    Raises:
        UserError: ``run_dir`` is no run directory, or a shard is missing or damaged.
        RunError: a file cannot be written.
    """
    facts = read_facts(run_dir, config)
    summary, acceptance = facts.summary, facts.acceptance
    stats: dict[str, object] = {"summary": summary.to_dict(), "failed": facts.failed, "operations": operations}
    if acceptance is not None:
        stats["acceptance"] = acceptance.to_dict()
    sheet_columns = _sheet_columns(facts.manifest, facts.judges)
    if acceptance is not None:
        sheet_columns.append("accepted")
    pictures = spread_rows(run_dir, sheet_columns, SHEET_ROWS)
    try:
        write_atomic(run_dir / "stats.json", json.dumps(stats, indent=2, ensure_ascii=False).encode() + b"\n")
        write_contact_sheet(run_dir / "contact_sheet.png", pictures, SHEET_ROWS)
        write_card(run_dir, config, facts, provenance)
    except OSError as error:
        raise RunError(f"the report cannot be written ({reason(error)})") from error
    return summary


def conclude(config: RunConfig, state: RunState, note: Callable[[str], None] | None = None) -> None:
    """Bring the acceptance and the report of an opened run in which no session is to make rows up to date.

    Args:
        note: called with one sentence where the config's acceptance rule replaces another one; without it, a rule in
            force stays.

    Raises:
        UserError, RunError: as for :func:`write_report`.
    """
    described = first_config(config)
    accept_again(state.run_dir, described, state.check_lock, note)
    renew_report(state.run_dir, described)


def renew_report(run_dir: Path, config: RunConfig) -> None:
    """Write the report of the rows committed so far, unless there is a report of exactly these rows.

    It is missing where a crash came between the last commit and the report, and differs once side tables have come. The
    figures that only the driver knew are those of the earlier report; where there is none, ``stats.json`` has zeros.

    Raises:
        UserError, RunError: as for :func:`write_report`.
    """
    if not describes(run_dir):
        rewrite_report(run_dir, config)


def rewrite_report(run_dir: Path, config: RunConfig) -> None:
    """Write the report of the rows committed so far, with the driver's figures of the earlier one.

    Raises:
        UserError, RunError: as for :func:`write_report`.
    """
    provenance = _provenance(run_dir)
    if provenance is not None:
        operations = read_operations(run_dir) or {"seconds": 0.0, "rows_written": 0}
        write_report(run_dir, config, provenance, operations)


def published_card(run_dir: Path, config: RunConfig, repository: str, hide: Callable[[str], str]) -> str:
    """Return the card of a run with at least one row, for readers who find it on the Hub under a repository's name.

    Args:
        hide: takes local paths and addresses out of a text.

    Raises:
        UserError: a shard is missing or damaged.
    """
    provenance = _provenance(run_dir)
    if provenance is None:
        raise ValueError(f"{run_dir} has no rows")
    facts = read_facts(run_dir, config)
    return render_card(Place(run_dir, repository), config, facts, provenance, hide)


def _provenance(run_dir: Path) -> Provenance | None:
    """What all rows of a run share, as its first row states it; ``None`` where there is no row."""
    columns = Provenance.columns_in(read_manifest(run_dir).types)
    row = next(read_rows(run_dir, columns), None)
    return None if row is None else Provenance(**row)


def _sheet_columns(manifest: Manifest, judges: list[str]) -> list[str]:
    names = ["prompt", "image", "score", "score_initial"]
    if "image_initial" in manifest.types:
        names.append("image_initial")
    for judge in judges:
        names += [f"judge_{judge}_initial", f"judge_{judge}"]
    return names
