"""Which figures a run has: its judges, the scorers of its panel, the columns to read for them, the driver's figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.report.summary import columns
from noisesmith.pipeline.schema import TOKENS_CUT
from noisesmith.pipeline.sinks.manifest import Manifest


@dataclass(frozen=True)
class Figures:
    """The names of the judges and of the panel's scorers (none for one scorer), and the columns of their summary."""

    judges: list[str]
    members: list[str]
    columns: list[str]


def figures_of(config: RunConfig, manifest: Manifest) -> Figures:
    """What a run's summary is made of; a run of an older version has fewer columns."""
    judges = judge_names(config, manifest)
    members = [member.name for member in config.panel if f"score_{member.name}" in manifest.types]
    names = columns(judges, members)
    if TOKENS_CUT in manifest.types:
        names.append(TOKENS_CUT)
    return Figures(judges, members, names)


def read_operations(run_dir: Path) -> dict[str, Any]:
    """The figures that the driver of the last session wrote into ``stats.json``; none where it wrote none."""
    try:
        operations = json.loads((run_dir / "stats.json").read_bytes())["operations"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return operations if isinstance(operations, dict) else {}


def judge_names(config: RunConfig, manifest: Manifest) -> list[str]:
    """The judges of a run: those of its config, then those that have come in side tables."""
    names = [judge.name for judge in config.judges]
    for table, table_columns in manifest.side_columns.items():
        if list(table_columns) == [f"judge_{table}", f"judge_{table}_initial"]:
            names.append(table)
    return names
