"""How many workers of each side keep all sides busy within a number of GPUs and cores. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDING = 1e-9  # of sums of fractions of GPUs and cores


@dataclass(frozen=True)
class Load:
    """The work of one side, and what one of its workers takes.

    Attributes:
        seconds: that a worker works on a row, or on whatever else is the same for all sides; above 0.
        gpus, cpus: that Ray reserves for a worker.
    """

    seconds: float
    gpus: float
    cpus: float

    @property
    def rate(self) -> float:
        """Rows per second of one worker. A worker with a part of a GPU has that part of its time."""
        share = self.gpus or self.cpus
        return min(1.0, share) / self.seconds


@dataclass(frozen=True)
class Budget:
    """The GPUs and cores that all workers may take together."""

    gpus: float
    cpus: float

    @classmethod
    def of(cls, loads: Sequence[Load], counts: Sequence[int]) -> Budget:
        """What so many workers of each side take."""
        pairs = list(zip(loads, counts, strict=True))
        return cls(sum(count * load.gpus for load, count in pairs), sum(count * load.cpus for load, count in pairs))

    def holds(self, loads: Sequence[Load], counts: Sequence[int]) -> bool:
        """Whether so many workers of each side fit."""
        taken = Budget.of(loads, counts)
        return taken.gpus <= self.gpus + _ROUNDING and taken.cpus <= self.cpus + _ROUNDING


def rows_per_second(loads: Sequence[Load], counts: Sequence[int]) -> float:
    """Rows per second of so many workers of each side: every row passes all sides, so the slowest one counts."""
    return min(count * load.rate for load, count in zip(loads, counts, strict=True))


def best_split(loads: Sequence[Load], budget: Budget) -> list[int]:
    """The number of workers of each side, at least one, with the most rows per second; what is left over is used too.

    A worker is given to the slowest side as long as one fits. Each rate needs a least number of workers of each side,
    and this goes through these numbers in the order of their rates, so nothing better is passed over.

    Raises:
        ValueError: one worker of each side is more than the budget.
    """
    counts = [1] * len(loads)
    if not budget.holds(loads, counts):
        raise ValueError("one worker of each side is more than there is room for")
    growing = set(range(len(loads)))
    while growing:
        slowest = min(growing, key=lambda side: counts[side] * loads[side].rate)
        counts[slowest] += 1
        if not budget.holds(loads, counts):
            counts[slowest] -= 1
            growing.discard(slowest)
    return counts
