"""When a row's search stops."""

from __future__ import annotations

from collections.abc import Sequence

from noisesmith.pipeline.config import OptimizerConfig, RunConfig


def why_stop(config: RunConfig, rounds: int, evaluations: float, searched: Sequence[float], best: float) -> str | None:
    """``perfect``, ``target``, ``rounds``, ``budget``, ``patience``, or ``None`` while the search goes on.

    Args:
        rounds: that the search has taken; ``evaluations``: U-Net evaluations that the row has taken.
        searched: the scores of the first image and of every round's.
        best: the score of the kept image, or of the latest one where that is higher.
    """
    optimizer = config.optimizer
    if best >= 1.0:
        return "perfect"
    if optimizer.target_score is not None and best >= optimizer.target_score:
        return "target"
    if rounds >= optimizer.rounds:
        return "rounds"
    if _exceeds_budget(config, evaluations):
        return "budget"
    if optimizer.patience is not None and _rounds_without_gain(searched) >= optimizer.patience:
        return "patience"
    return None


def reaches_target(optimizer: OptimizerConfig, score: float) -> bool:
    """Whether a score ends the search."""
    return score >= (1.0 if optimizer.target_score is None else optimizer.target_score)


def _exceeds_budget(config: RunConfig, spent: float) -> bool:
    """Whether another round, and what its best images take in the end, would exceed ``unet_evaluations``."""
    budget = config.optimizer.unet_evaluations
    if budget is None:
        return False
    steps = config.generators.steps
    short = config.optimizer.short_rounds(steps)
    needed = steps if short is None else short.steps + short.keep * short.more
    return spent + needed > budget


def _rounds_without_gain(searched: Sequence[float]) -> int:
    return len(searched) - 1 - searched.index(max(searched))
