"""The batch size of a side: calls are timed at growing sizes, until memory or their gain ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from noisesmith.pipeline.errors import MemoryExhausted

REPEATS = 3  # timed calls of each size, after one that is not counted
GAIN = 0.05  # a larger batch must make at least this share more rows per second to count as faster
PATIENCE = 2  # sizes in a row without such a gain end the climb


@dataclass(frozen=True)
class BatchTiming:
    """What calls with so many rows take.

    Attributes:
        seconds: of a call that uses the models, by kind of call; the median of :data:`REPEATS`.
        peak_bytes: the most memory that the process took; ``None`` where the system does not say it.
    """

    batch_size: int
    seconds: Mapping[str, float]
    peak_bytes: int | None


@dataclass(frozen=True)
class SideTiming:
    """All sizes that were timed, in rising order, the size that is best, and why larger ones were not timed."""

    timings: tuple[BatchTiming, ...]
    best: int
    stopped: str

    def at(self, batch_size: int) -> BatchTiming:
        """The timing of a size, or of the largest smaller one."""
        smaller = [timing for timing in self.timings if timing.batch_size <= batch_size]
        return smaller[-1] if smaller else self.timings[0]


class Trial(Protocol):
    """One side with its models loaded."""

    def run(self, batch_size: int) -> Mapping[str, float]:
        """Make one call of each kind with so many rows; returns for how many seconds each used the models.

        Raises:
            MemoryExhausted: a batch does not fit.
        """
        ...


class Memory(Protocol):
    """The memory of the device on which a side works.

    Attributes:
        limit: bytes that the process may take; ``None`` where nothing sets a limit.
    """

    limit: int | None

    def start(self) -> None:
        """Forget the peak of earlier work."""
        ...

    def peak(self) -> int | None:
        """The most bytes that the process took since then; ``None`` where the system does not say it."""
        ...


def sizes_up_to(bound: int) -> list[int]:
    """1, 2, 4, 8 and so on up to a bound, which is the last one."""
    sizes = [1]
    while sizes[-1] * 2 <= bound:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == bound else [*sizes, bound]


def climb(
    trial: Trial,
    memory: Memory,
    sizes: Iterable[int],
    seconds_per_row: Callable[[BatchTiming], float],
    wanted: int | None = None,
) -> SideTiming:
    """Time a side at growing batch sizes, until they do not fit into memory or bring nothing more.

    Args:
        sizes: rising, from 1.
        seconds_per_row: of a timing; its inverse is what is to grow.
        wanted: a size that is timed in any case, if it fits.

    Raises:
        MemoryExhausted: not even one row fits.
    """
    timings: list[BatchTiming] = []
    stopped = ""
    for size in sizes:
        timing, problem = _timed(trial, memory, size)
        if timing is None:
            if not timings:
                raise MemoryExhausted(problem)
            stopped = problem
            break
        timings.append(timing)
        if _levels_off([1 / seconds_per_row(each) for each in timings]):
            stopped = f"larger batches than {timings[-1].batch_size} bring less than {GAIN:.0%} more"
            break
    if wanted is not None and wanted not in {timing.batch_size for timing in timings}:
        timing, problem = _timed(trial, memory, wanted)
        if timing is not None:
            timings.append(timing)
        stopped = problem or stopped
    timings.sort(key=lambda timing: timing.batch_size)
    return SideTiming(tuple(timings), choose(timings, seconds_per_row), stopped or "the largest size to try")


def choose(timings: Sequence[BatchTiming], seconds_per_row: Callable[[BatchTiming], float]) -> int:
    """The smallest size whose rows per second are at most :data:`GAIN` below the best.

    A smaller batch leaves fewer rows unfinished when a run stops, and is full sooner.
    """
    least = min(map(seconds_per_row, timings))
    return min(timing.batch_size for timing in timings if seconds_per_row(timing) * (1 - GAIN) <= least)


def _levels_off(rates: Sequence[float]) -> bool:
    """Whether none of the last :data:`PATIENCE` rates is clearly above the best one before them."""
    before, last = rates[:-PATIENCE], rates[-PATIENCE:]
    return bool(before) and max(last) < max(before) * (1 + GAIN)


def _timed(trial: Trial, memory: Memory, size: int) -> tuple[BatchTiming | None, str]:
    """The timing of one size, or why there is none."""
    memory.start()
    try:
        trial.run(size)
        calls = [trial.run(size) for _ in range(REPEATS)]
    except MemoryExhausted:
        return None, f"batches of {size} do not fit into memory"
    peak = memory.peak()
    if peak is not None and memory.limit is not None and peak > memory.limit:
        taken = f"{peak / 1e9:.3g} of the {memory.limit / 1e9:.3g} GB"
        return None, f"batches of {size} take {taken} that a process may take"
    seconds = dict(_medians(calls))
    return BatchTiming(size, seconds, peak), ""


def _medians(calls: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    for kind in calls[0]:
        yield kind, median(call[kind] for call in calls)
