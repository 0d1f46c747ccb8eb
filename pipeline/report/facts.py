"""What the files of a report say, read from a run in one pass over its rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from noisesmith.pipeline.acceptance import Acceptance, read_acceptance
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.report.figures import figures_of
from noisesmith.pipeline.report.spread import Spread, SpreadCounter, count_errors
from noisesmith.pipeline.report.summary import Summary, summarise
from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest
from noisesmith.pipeline.sinks.reader import read_rows


@dataclass(frozen=True)
class Facts:
    """What the files of a report are made of; ``failed`` counts the rows in ``failed/``."""

    manifest: Manifest
    judges: list[str]
    summary: Summary
    spread: Spread
    failed: int
    acceptance: Acceptance | None


def read_facts(run_dir: Path, config: RunConfig) -> Facts:
    """Read them.

    Raises:
        UserError: ``run_dir`` is no run directory, or a shard or a file of dead letters is missing or damaged.
    """
    manifest = read_manifest(run_dir)
    figures = figures_of(config, manifest)
    counter = SpreadCounter(config, manifest.header)
    columns = list(dict.fromkeys([*figures.columns, *counter.columns]))
    summary = summarise(counter.counting(read_rows(run_dir, columns)), figures.judges, figures.members)
    return Facts(
        manifest=manifest,
        judges=figures.judges,
        summary=summary,
        spread=counter.spread(count_errors(run_dir, manifest)),
        failed=sum(len(entry.failed) for entry in manifest.entries.values()),
        acceptance=read_acceptance(run_dir),
    )
