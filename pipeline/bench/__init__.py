"""Search methods compared fairly: the same prompts, first noises and budgets (``noisesmith bench methods``)."""

from __future__ import annotations

from pathlib import Path

from noisesmith.pipeline.bench.plan import Bench, Trial, base_config, plan_bench, refuse_if_all_failed, unfinished
from noisesmith.pipeline.bench.variants import choose

__all__ = [
    "Bench",
    "Trial",
    "base_config",
    "choose",
    "plan_bench",
    "refuse_if_all_failed",
    "unfinished",
    "write_comparison",
]


def write_comparison(bench: Bench) -> list[Path]:
    """Write ``methods.md``, ``methods.json``, ``score_by_round.png`` and ``score_by_evaluations.png`` of finished runs.

    Raises:
        UserError: a run is missing or damaged, or the runs cannot be compared.
    """
    from noisesmith.pipeline.bench import plots, read, tables  # matplotlib takes a second to import
    from noisesmith.pipeline.storage.files import write_atomic

    comparison, models = read.compare_runs(bench)
    facts = tables.conditions(bench, models)
    shape = (comparison, bench.variants, bench.rounds, bench.settings.generators.steps)
    contents = {
        "methods.md": tables.to_markdown(bench, comparison, facts).encode(),
        "methods.json": tables.to_json(bench, comparison, facts).encode(),
        "score_by_round.png": plots.score_by_round(*shape),
        "score_by_evaluations.png": plots.score_by_evaluations(*shape),
    }
    for name, content in contents.items():
        write_atomic(bench.out / name, content)
    return [bench.out / name for name in contents]
