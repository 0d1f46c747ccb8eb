"""What a run reports about itself: figures, dataset card, contact sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, reason
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.report.card import describes, write_card
from noisesmith.pipeline.report.contact_sheet import write_contact_sheet
from noisesmith.pipeline.report.sample import spread_rows
from noisesmith.pipeline.report.summary import Summary, columns, summarise, summary_table
from noisesmith.pipeline.schema import TOKENS_CUT
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.sinks.reader import read_rows
from noisesmith.pipeline.storage.files import write_atomic

__all__ = ["Summary", "renew_report", "summary_table", "write_report"]

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
    judges = [judge.name for judge in config.judges]
    manifest = read_manifest(run_dir)
    names = columns(judges)
    if TOKENS_CUT in manifest.header.columns:
        names.append(TOKENS_CUT)
    summary = summarise(read_rows(run_dir, names), judges)
    failed = sum(len(entry.failed) for entry in manifest.entries.values())
    stats = {"summary": summary.to_dict(), "failed": failed, "operations": operations}
    pictures = spread_rows(run_dir, _sheet_columns(config), SHEET_ROWS)
    try:
        write_atomic(run_dir / "stats.json", json.dumps(stats, indent=2, ensure_ascii=False).encode() + b"\n")
        write_contact_sheet(run_dir / "contact_sheet.png", pictures, SHEET_ROWS)
        write_card(run_dir, config, summary, provenance, failed)
    except OSError as error:
        raise RunError(f"the report cannot be written ({reason(error)})") from error
    return summary


def renew_report(run_dir: Path, config: RunConfig) -> None:
    """Write the report of a run whose rows are all done, unless there is a report of exactly these rows.

    It is missing where a crash came between the last commit and the report. The figures that only the driver knew are
    lost then, so ``stats.json`` has zeros for them.

    Raises:
        UserError, RunError: as for :func:`write_report`.
    """
    if describes(run_dir):
        return
    row = next(read_rows(run_dir, list(Provenance.__dataclass_fields__)), None)
    if row is not None:
        write_report(run_dir, config, Provenance(**row), {"seconds": 0.0, "rows_written": 0})


def _sheet_columns(config: RunConfig) -> list[str]:
    names = ["prompt", "image", "score", "score_initial"]
    if config.output.image_initial:
        names.append("image_initial")
    for judge in config.judges:
        names += [f"judge_{judge.name}_initial", f"judge_{judge.name}"]
    return names
