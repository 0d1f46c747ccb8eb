"""One score of several scorers, and the gradient that belongs to it, from what their groups have answered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.search.tasks import Slope

T = TypeVar("T")


def probability(log_score: float) -> float:
    """s in [0, 1] of log s; rounding may have put it above 0."""
    return math.exp(min(log_score, 0.0))


class Opinion(NamedTuple, Generic[T]):
    """What one group of scorers says of an image. A tuple, since the driver unpickles one per row and call.

    Attributes:
        log_scores: of its members, in their order.
        log_gradient: ∂/∂z_0 of what the group steers by (``Group.steering``), where it was asked for.
        log_atoms: Σ wᵢ·log P(answer) of each question, over its members that ask them; empty where none does.
    """

    log_scores: tuple[float, ...]
    log_gradient: T | None
    log_atoms: tuple[float, ...] = ()


class Combination:
    """How the scorers of a config become one.

    ``mean`` is the weighted geometric mean, log s = Σ wᵢ·log sᵢ / Σ wᵢ; ``min`` the lowest score. ``rank`` steers as
    ``mean`` and chooses the kept image by :meth:`best_by_rank`.
    """

    def __init__(self, config: RunConfig) -> None:
        self._groups = config.groups
        self._members = config.panel
        self._weights = [member.weight for member in self._members]
        self._asking = sum(member.weight for member in self._members if member.asks == "questions")
        self._lowest = config.combine == "min"
        self.by_rank = config.combine == "rank" and len(self._members) > 1

    def score(self, log_scores: Sequence[float]) -> float:
        """The combined score in [0, 1] of every member's log s, in the panel's order."""
        mean = self._weighted(log_scores) / sum(self._weights)
        return probability(min(log_scores) if self._lowest else mean)

    def atoms(self, opinions: Sequence[Opinion[T]]) -> tuple[float, ...]:
        """P(answer) of each question: the weighted geometric mean over the scorers that ask them; empty if none do."""
        by_group = [opinion.log_atoms for opinion in opinions if opinion.log_atoms]
        return tuple(probability(sum(logs) / self._asking) for logs in zip(*by_group, strict=True))

    def slopes(self, opinions: Sequence[Opinion[T]]) -> tuple[Slope[T], ...]:
        """The parts of the combined ∂log s/∂z_0, one per group that has a gradient; empty where none has.

        With ``min`` only the group of the lowest member whose gradient is used counts.
        """
        if not self._lowest:
            share = 1.0 / sum(self._weights)
            return tuple(Slope(one.log_gradient, share) for one in opinions if one.log_gradient is not None)
        lowest: Slope[T] | None = None
        least = math.inf
        for group, opinion in zip(self._groups, opinions, strict=True):
            steering = [
                log_score for member, log_score in zip(group, opinion.log_scores, strict=True) if member.gradient
            ]
            if opinion.log_gradient is not None and (lowest is None or min(steering) < least):
                least = min(steering)
                lowest = Slope(opinion.log_gradient, 1.0)
        return () if lowest is None else (lowest,)

    def best_by_rank(self, images: Mapping[int, Sequence[float]]) -> int:
        """The image with the best weighted mean rank; of equals the earliest.

        A member ranks an image by how many images it gives a higher score.

        Args:
            images: every member's log s, by image, in the order in which they were made.
        """

        def total_rank(image: int) -> float:
            ranks = []
            for member, log_score in enumerate(images[image]):
                ranks.append(sum(1.0 for other in images.values() if other[member] > log_score))
            return self._weighted(ranks)

        return min(images, key=total_rank)

    def by_member(self, first: Sequence[float], kept: Sequence[float]) -> dict[str, tuple[float, float]]:
        """Each scorer's scores of the first and the kept image, by name; empty where there is only one scorer.

        Args:
            first: every member's log s of the first image, in the panel's order; ``kept``: of the kept image.
        """
        if len(self._members) < 2:
            return {}
        scores = {}
        for member, log_first, log_kept in zip(self._members, first, kept, strict=True):
            scores[member.name] = (probability(log_first), probability(log_kept))
        return scores

    def _weighted(self, values: Sequence[float]) -> float:
        total = 0.0
        for weight, value in zip(self._weights, values, strict=True):
            total += weight * value
        return total
