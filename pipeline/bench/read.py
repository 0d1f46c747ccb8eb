"""The figures of a comparison, read from the directories of its runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from noisesmith.pipeline.bench.compare import Comparison, compare
from noisesmith.pipeline.bench.design import Design
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.report.summary import Row, columns
from noisesmith.pipeline.sinks import read_rows

_MODELS = ("generator", "generator_revision", "scorer", "scorer_revision")


def row_columns(judges: Sequence[str]) -> list[str]:
    """The columns that a comparison reads; no images among them."""
    return ["id", "evaluations", *columns(judges), *_MODELS]


def compare_runs(design: Design) -> tuple[Comparison, dict[str, str]]:
    """The figures of finished runs, and the ids and revisions of the models that made them.

    Raises:
        UserError: a run is missing or damaged, or they were made by different revisions of a model.
    """
    judges = [judge.name for judge in design.settings.judges]
    rows: dict[str, dict[tuple[int, str], Row]] = defaultdict(dict)
    sessions: dict[str, list[tuple[float, int]]] = defaultdict(list)
    models: dict[str, str] = {}
    for trial in design.trials:
        label = trial.variant.label
        run_dir = trial.config.run_dir
        for row in read_rows(run_dir, row_columns(judges)):
            found = {name: row[name] for name in _MODELS}
            if models and found != models:
                raise UserError(
                    f"{run_dir}: was made by other models ({found}) than the first run ({models}); delete the runs of "
                    "one of them, or compare in another --out"
                )
            models = found
            rows[label][trial.config.seed, row["id"]] = row
        sessions[label].append(_last_session(run_dir))
    seconds = {label: _per_row(pairs) for label, pairs in sessions.items()}
    steps = design.settings.generators.steps
    comparison = compare(design.variants, rows, seconds, judges, design.parts(), rounds=design.rounds, steps=steps)
    return comparison, models


def _last_session(run_dir: Path) -> tuple[float, int]:
    """Seconds of a run's last session and the rows it wrote; (0, 0) where it was killed before its report."""
    path = run_dir / "stats.json"
    if not path.is_file():
        return 0.0, 0
    operations = json.loads(path.read_text(encoding="utf-8"))["operations"]
    return operations["seconds"], operations["rows_written"]


def _per_row(sessions: list[tuple[float, int]]) -> float | None:
    rows = sum(count for _, count in sessions)
    return sum(seconds for seconds, _ in sessions) / rows if rows else None
