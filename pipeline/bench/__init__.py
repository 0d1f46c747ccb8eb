"""Search methods compared fairly: the same prompts, first noises and budgets (``noisesmith bench methods``)."""

from __future__ import annotations

from pipeline.bench.plan import Bench, Trial, base_config, plan_bench, refuse_if_all_failed, unfinished
from pipeline.bench.variants import choose

__all__ = [
    "Bench",
    "Trial",
    "base_config",
    "choose",
    "plan_bench",
    "refuse_if_all_failed",
    "unfinished",
]
