"""The rows of a comparison, read from the directories of its runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noisesmith.pipeline.bench.compare import Comparison, Rows, compare
from noisesmith.pipeline.bench.design import Design, Trial
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.report.summary import Row, columns
from noisesmith.pipeline.sinks import read_rows

_GENERATOR = ("generator", "generator_revision")
MODEL_COLUMNS = (*_GENERATOR, "scorer", "scorer_revision")
Models = dict[str, str]  # ids and revisions by column


@dataclass(frozen=True)
class Runs:
    """What finished runs hold, by variant: rows by (seed, row id), seconds per row where known, and their models."""

    rows: Mapping[str, Rows]
    seconds: Mapping[str, float | None]
    models: Mapping[str, Models]


def row_columns(judges: Sequence[str]) -> list[str]:
    """The columns that a comparison reads; no images among them."""
    return ["id", "evaluations", *columns(judges), *MODEL_COLUMNS]


def read_runs(design: Design) -> Runs:
    """The rows of finished runs.

    Raises:
        UserError: a run is missing or damaged, or runs were made by different revisions of a model.
    """
    judges = [judge.name for judge in design.settings.judges]
    rows: dict[str, dict[tuple[int, str], Row]] = defaultdict(dict)
    sessions: dict[str, list[tuple[float, int]]] = defaultdict(list)
    models: dict[str, Models] = {}
    check = _SameModels()
    for trial in design.trials:
        label = trial.variant.label
        run_dir = trial.config.run_dir
        for row in read_rows(run_dir, row_columns(judges)):
            models[label] = {name: row[name] for name in MODEL_COLUMNS}
            check(trial, models[label])
            rows[label][trial.config.seed, row["id"]] = row
        sessions[label].append(_last_session(run_dir))
    return Runs(rows, {label: _per_row(pairs) for label, pairs in sessions.items()}, models)


def compare_runs(design: Design, runs: Runs) -> Comparison:
    """The figures of runs, with those of the design's reference as what all are compared with.

    Raises:
        UserError: no row was finished by every variant.
    """
    return compare(
        design.variants,
        runs.rows,
        runs.seconds,
        [judge.name for judge in design.settings.judges],
        design.parts(),
        asked=design.corpus.size * design.seeds,
        rounds=design.rounds,
        steps=design.settings.generators.steps,
        reference=design.kind.reference,
    )


class _SameModels:
    """Refuses rows of other models: runs whose configs name the same scorers, and the generator of all runs."""

    def __init__(self) -> None:
        self._first: dict[object, Models] = {}  # by the scorers that configs name

    def __call__(self, trial: Trial, found: Models) -> None:
        named = tuple((member.model, member.revision, member.server_model) for member in trial.config.panel)
        expected = self._first.setdefault(named, found)
        if found == expected:
            expected = next(iter(self._first.values()))
            if all(found[name] == expected[name] for name in _GENERATOR):
                return
        raise UserError(
            f"{trial.config.run_dir}: was made by other models ({found}) than the first run ({expected}); delete the "
            "runs of one of them, or compare in another --out"
        )


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
