"""Fair comparisons on the same prompts, first noises and budgets: of search methods, and of verifiers.

``noisesmith bench methods`` and ``noisesmith bench verifiers``; ``noisesmith bench training`` is in the package
``training``.
"""

from __future__ import annotations

from pathlib import Path

from noisesmith.pipeline.bench.design import Design, Trial, base_config, make_design, refuse_if_all_failed, unfinished
from noisesmith.pipeline.bench.kinds import METHODS, VERIFIERS
from noisesmith.pipeline.bench.variants import choose
from noisesmith.pipeline.bench.verifiers import choose_verifiers

__all__ = [
    "METHODS",
    "VERIFIERS",
    "Design",
    "Trial",
    "base_config",
    "choose",
    "choose_verifiers",
    "make_design",
    "refuse_if_all_failed",
    "unfinished",
    "write_comparison",
]


def write_comparison(design: Design) -> list[Path]:
    """Write the figures of finished runs, and return the files, the table in Markdown first.

    They are ``methods.md``, ``methods.json``, ``score_by_round.png`` and ``score_by_evaluations.png``; for verifiers,
    whose scores do not belong on one axis, ``verifiers.md`` and ``verifiers.json``.

    Raises:
        UserError: a run is missing or damaged, or the runs cannot be compared.
    """
    from noisesmith.pipeline.storage.files import write_atomic

    contents = _methods(design) if design.kind == METHODS else _verifiers(design)
    paths = [design.out / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomic(path, content)
    return paths


def _methods(design: Design) -> dict[str, bytes]:
    from noisesmith.pipeline.bench import plots, read, tables  # matplotlib takes a second to import

    runs = read.read_runs(design)
    comparison = read.compare_runs(design, runs)
    facts = tables.conditions(design, next(iter(runs.models.values())))
    rounds = design.rounds
    steps = design.settings.generators.steps
    return {
        "methods.md": tables.to_markdown(design, comparison, facts).encode(),
        "methods.json": tables.to_json(design, comparison, facts).encode(),
        "score_by_round.png": plots.score_by_round(comparison, design.variants, rounds, steps),
        "score_by_evaluations.png": plots.score_by_evaluations(comparison, design.variants, rounds, steps),
    }


def _verifiers(design: Design) -> dict[str, bytes]:
    from noisesmith.pipeline.bench import read, tables, verified, verifier_tables  # these import torch

    runs = read.read_runs(design)
    comparison, found = verified.verify_runs(design, runs)
    facts = tables.conditions(design, next(iter(runs.models.values())), ["generator"])
    return {
        "verifiers.md": verifier_tables.to_markdown(design, comparison, found, facts, runs).encode(),
        "verifiers.json": verifier_tables.to_json(design, comparison, found, facts, runs).encode(),
    }
