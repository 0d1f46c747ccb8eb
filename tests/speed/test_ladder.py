"""The choice of a batch size, with a clock and a memory of our own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from noisesmith.pipeline.errors import MemoryExhausted
from noisesmith.pipeline.speed.ladder import REPEATS, BatchTiming, SideTiming, climb, sizes_up_to


class Device:
    """A side whose calls take ``seconds(batch)`` of a clock and ``peak(batch)`` bytes; more than ``room`` fail.

    The first call of each size takes ten times as long, as where a library chooses its kernels.
    """

    def __init__(
        self,
        seconds: Callable[[int], float],
        peak: Callable[[int], int] = lambda batch: batch,
        limit: int | None = None,
        room: int = 10**12,
    ) -> None:
        self.limit = limit
        self.now = 0.0
        self.asked: list[int] = []
        self._seconds = seconds
        self._peak = peak
        self._room = room
        self._highest = 0

    def start(self) -> None:
        self._highest = 0

    def peak(self) -> int | None:
        return self._highest

    def run(self, batch_size: int) -> dict[str, float]:
        if self._peak(batch_size) > self._room:
            raise MemoryExhausted("out of memory")
        is_first = batch_size not in self.asked
        self.asked.append(batch_size)
        self._highest = max(self._highest, self._peak(batch_size))
        before = self.now
        self.now += self._seconds(batch_size) * (10 if is_first else 1)
        return {"call": self.now - before}


def per_row(timing: BatchTiming) -> float:
    return timing.seconds["call"] / timing.batch_size


def sizes_of(side: SideTiming) -> list[int]:
    return [timing.batch_size for timing in side.timings]


def climb_on(device: Device, bound: int, wanted: int | None = None) -> SideTiming:
    return climb(device, device, sizes_up_to(bound), per_row, wanted)


@pytest.mark.parametrize(("bound", "sizes"), [(1, [1]), (8, [1, 2, 4, 8]), (6, [1, 2, 4, 6])])
def test_sizes_double_up_to_the_bound(bound: int, sizes: list[int]) -> None:
    assert sizes_up_to(bound) == sizes


def test_the_first_call_of_a_size_does_not_count() -> None:
    device = Device(lambda batch: 0.5 + batch)
    side = climb_on(device, 4)
    assert [timing.seconds["call"] for timing in side.timings] == [1.5, 2.5, 4.5]
    assert device.asked == [size for size in (1, 2, 4) for _ in range(1 + REPEATS)]


def test_a_size_counts_by_the_median_of_its_calls() -> None:
    spikes = iter([1.0, 1.0, 9.0, 1.0])
    assert climb_on(Device(lambda batch: next(spikes)), 1).timings[0].seconds == {"call": 1.0}


def test_the_climb_ends_where_larger_batches_bring_nothing() -> None:
    """A GPU that is full from 8 rows on."""
    side = climb_on(Device(lambda batch: max(8, batch) / 8), 256)
    assert sizes_of(side) == [1, 2, 4, 8, 16, 32]
    assert side.best == 8
    assert side.stopped == "larger batches than 32 bring less than 5% more"


def test_one_size_without_a_gain_does_not_end_the_climb() -> None:
    times = {1: 1.0, 2: 2.0, 4: 2.0, 8: 2.0}
    side = climb_on(Device(lambda batch: times[batch]), 8)
    assert (sizes_of(side), side.best) == ([1, 2, 4, 8], 8)


def test_a_larger_batch_must_be_clearly_faster() -> None:
    times = {1: 1.0, 2: 1.0, 4: 1.95}
    assert climb_on(Device(lambda batch: times[batch]), 4).best == 2


def test_a_batch_that_leaves_no_reserve_is_not_used() -> None:
    side = climb_on(Device(lambda batch: 1.0, peak=lambda batch: 2 * 10**9 * batch, limit=9 * 10**9), 256)
    assert (sizes_of(side), side.best) == ([1, 2, 4], 4)
    assert side.stopped == "batches of 8 take 16 of the 9 GB that a process may take"
    assert [timing.peak_bytes for timing in side.timings] == [2 * 10**9, 4 * 10**9, 8 * 10**9]


def test_a_batch_that_does_not_fit_ends_the_climb() -> None:
    side = climb_on(Device(lambda batch: 1.0, room=5), 256)
    assert (sizes_of(side), side.best, side.stopped) == ([1, 2, 4], 4, "batches of 8 do not fit into memory")


def test_not_one_row_fits() -> None:
    with pytest.raises(MemoryExhausted, match="batches of 1 do not fit into memory"):
        climb_on(Device(lambda batch: 1.0, room=0), 8)


def test_the_size_of_the_config_is_timed_in_any_case_if_it_fits() -> None:
    full = Device(lambda batch: max(2, batch) / 2)
    assert sizes_of(climb_on(full, 256, wanted=48)) == [1, 2, 4, 8, 48]
    tight = Device(lambda batch: 1.0, room=12)
    side = climb_on(tight, 256, wanted=12)
    assert (sizes_of(side), side.best) == ([1, 2, 4, 8, 12], 12)
    assert climb_on(tight, 256, wanted=13).stopped == "batches of 13 do not fit into memory"


def test_a_size_that_was_not_timed_counts_as_the_next_smaller_one() -> None:
    side = climb_on(Device(lambda batch: 1.0), 8)
    assert [side.at(size).batch_size for size in (1, 3, 8, 64)] == [1, 2, 8, 8]
