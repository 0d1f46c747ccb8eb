"""How well a score separates right images from wrong ones: the area under its ROC curve, with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noisesmith.pipeline.report.summary import RESAMPLES, Array, Estimate

RIGHT = 0.5  # least value of a judge that counts as right
_CHUNK_VALUES = 2_000_000  # weights of resampled images held at once: 16 MB of float64


@dataclass(frozen=True)
class Separation:
    """``auc`` is the share of pairs of a right and a wrong image in which the right one has the higher score.

    Equal scores count half (Hanley & McNeil 1982). ``right`` of the ``images`` are right.
    """

    images: int
    right: int
    auc: Estimate


def separation(scores: Array, judged: Array, prompts: NDArray[np.intp], seed: int = 0) -> Separation | None:
    """The AUC of scores against a judge, with a 95 % percentile bootstrap interval over prompts.

    A resample draws prompts with replacement, each with all its images; one without a right or a wrong image says
    nothing and is left out.

    Args:
        scores: of R images ``[R]``.
        judged: the judge's values ``[R]``, NaN for an image that it could not read, which is left out.
        prompts: the number of each image's prompt ``[R]``.

    Returns:
        ``None`` where all images are right, or all wrong.
    """
    known = ~np.isnan(judged)
    right = judged[known] >= RIGHT
    _, prompt_of = np.unique(prompts[known], return_inverse=True)
    mean = float(areas(scores[known], right, np.ones((1, len(right))))[0])
    if np.isnan(mean):
        return None
    resampled = _resampled(scores[known], right, prompt_of, seed)
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Separation(len(right), int(right.sum()), Estimate(mean, float(low), float(high)))


def areas(scores: Array, right: NDArray[np.bool_], weights: Array) -> Array:
    """The AUC ``[K]`` of R images that count with ``weights`` ``[K, R]``; NaN without a pair that counts.

    Args:
        scores, right: ``[R]``.
    """
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)
    if not len(starts):
        return np.full(len(weights), np.nan)
    # Weight of right and of wrong images at each different score, by rising score.
    of_right: Array = np.add.reduceat((weights * right)[:, order], starts, axis=1)
    of_wrong: Array = np.add.reduceat((weights * ~right)[:, order], starts, axis=1)
    wrong_below = of_wrong.cumsum(axis=1) - of_wrong
    won = (of_right * (wrong_below + of_wrong / 2)).sum(axis=1)
    pairs = of_right.sum(axis=1) * of_wrong.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of no pair
        found: Array = won / pairs
    return found


def _resampled(scores: Array, right: NDArray[np.bool_], prompt_of: NDArray[np.intp], seed: int) -> Array:
    """The AUC of each resample of the prompts."""
    rng = np.random.default_rng(seed)
    count = int(prompt_of.max()) + 1
    size = max(1, _CHUNK_VALUES // len(scores))
    chunks: list[Array] = []
    for start in range(0, RESAMPLES, size):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(size, RESAMPLES - start))
        chunks.append(areas(scores, right, drawn[:, prompt_of].astype(np.float64)))
    return np.concatenate(chunks)
