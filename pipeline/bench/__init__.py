"""A fair comparison of search methods: the same prompts, first noises and budgets (``noisesmith bench methods``)."""

from __future__ import annotations

from pathlib import Path

from noisesmith.pipeline.bench.design import Design, Trial, base_config, make_design, refuse_if_all_failed, unfinished
from noisesmith.pipeline.bench.variants import choose

__all__ = [
    "Design",
    "Trial",
    "base_config",
    "choose",
    "make_design",
    "refuse_if_all_failed",
    "unfinished",
    "write_comparison",
]


def write_comparison(design: Design) -> list[Path]:
    """Write ``methods.md``, ``methods.json``, ``score_by_round.png`` and ``score_by_evaluations.png`` of finished runs.

    Raises:
        UserError: a run is missing or damaged, or the runs cannot be compared.
    """
    from noisesmith.pipeline.bench import plots, read, tables  # matplotlib takes a second to import
    from noisesmith.pipeline.storage.files import write_atomic

    comparison, models = read.compare_runs(design)
    facts = tables.conditions(design, models)
    rounds = design.rounds
    steps = design.settings.generators.steps
    contents = {
        "methods.md": tables.to_markdown(design, comparison, facts).encode(),
        "methods.json": tables.to_json(design, comparison, facts).encode(),
        "score_by_round.png": plots.score_by_round(comparison, design.variants, rounds, steps),
        "score_by_evaluations.png": plots.score_by_evaluations(comparison, design.variants, rounds, steps),
    }
    paths = [design.out / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomic(path, content)
    return paths
