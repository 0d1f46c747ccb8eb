"""Moves workers from an idle side to a busy one while a run works (``placement: auto``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from noisesmith.actors.pool import AnyPool
from noisesmith.actors.stage import AnyStage
from noisesmith.pipeline.config import Actors
from noisesmith.pipeline.speed.split import Budget, Load, best_split, rows_per_second
from noisesmith.pipeline.telemetry.events import Event, WorkersMoved

BUSY = 0.9  # share of its time from which on a side counts as the bottleneck
IDLE = 0.85  # share of its time up to which a side can do with fewer workers
# What another split must be worth by the measured times. A move back needs as much, so the times must have changed by
# more than a fifth in between: a split does not swing.
GAIN = 1.1
CALLS = 3  # per worker of each side, at least, before the times of a window mean anything


@dataclass(frozen=True)
class BalancedSide:
    """One side of the search: its workers, the stage through which every image passes, and what a worker takes."""

    pool: AnyPool
    stage: AnyStage
    placed: Actors


@dataclass(frozen=True)
class _Mark:
    """The counters of a side at one moment."""

    seconds: float
    loaded_seconds: float
    calls: int
    rows: int

    @classmethod
    def of(cls, side: BalancedSide) -> _Mark:
        return cls(side.pool.seconds, side.pool.loaded_seconds(), side.stage.calls, side.stage.rows)


class Balancer:
    """Compares the sides, and moves workers once the same change would have paid off twice in a row.

    A worker that leaves ends when it holds no call, and the ones in its place start when there is room for them. So
    workers never take more GPUs and cores together than at the start, and no row is lost.

    Args:
        seconds: after how long a change is made that pays off all the time; two windows of half of it are compared.
        clock: gives seconds.
    """

    def __init__(
        self,
        sides: Sequence[BalancedSide],
        seconds: float,
        clock: Callable[[], float],
        emit: Callable[[Event], None],
    ) -> None:
        self._sides = sides
        self._window = seconds / 2
        self._clock = clock
        self._emit = emit
        self._budget = Budget.of(self._loads([1.0] * len(sides)), [side.pool.count for side in sides])
        self._owed = [0] * len(sides)  # workers to start once there is room
        self._marks: list[_Mark] | None = None  # at the start of the window
        self._ends = 0.0
        self._before: list[int] = []  # which sides the last window would have made smaller (-1) and larger (1)

    def step(self, rows_left: bool) -> bool:
        """Look at the sides if it is time to.

        Args:
            rows_left: whether rows wait for admission; at the end of a run a new worker has nothing to do.

        Returns:
            whether numbers of workers have changed.
        """
        if rows_left and any(self._owed):
            return self._start_owed()
        if not rows_left or not all(side.pool.all_loaded for side in self._sides):
            self._marks = None
            self._before = []
            return False
        now = self._clock()
        if self._marks is None:
            self._start_window(now)
        elif now >= self._ends and self._has_seen_enough(self._marks):
            return self._compare(self._marks, now)
        return False

    def _has_seen_enough(self, marks: Sequence[_Mark]) -> bool:
        calls = [side.stage.calls - mark.calls for side, mark in zip(self._sides, marks, strict=True)]
        return all(count >= CALLS * side.pool.count for side, count in zip(self._sides, calls, strict=True))

    def _start_window(self, now: float) -> None:
        self._marks = list(map(_Mark.of, self._sides))
        self._ends = now + self._window

    def _compare(self, marks: Sequence[_Mark], now: float) -> bool:
        """Judge the window that has ended."""
        self._start_window(now)
        busy = []
        times = []
        for before, side in zip(marks, self._sides, strict=True):
            after = _Mark.of(side)
            worked = after.seconds - before.seconds
            rows = after.rows - before.rows
            busy.append(worked / max(after.loaded_seconds - before.loaded_seconds, 1e-9))
            times.append(worked / rows)
        wanted = self._wanted(busy, times)
        change = [_sign(new - side.pool.count) for new, side in zip(wanted, self._sides, strict=True)]
        repeated = any(change) and change == self._before
        self._before = change
        if repeated:
            self._move(wanted, busy)
        return repeated

    def _wanted(self, busy: Sequence[float], times: Sequence[float]) -> list[int]:
        """The numbers of workers that the times ask for, or those that there are where a change is not worth it."""
        counts = [side.pool.count for side in self._sides]
        if min(times) <= 0 or max(busy) < BUSY or min(busy) > IDLE:
            return counts
        loads = self._loads(times)
        wanted = best_split(loads, self._budget)
        return wanted if rows_per_second(loads, wanted) >= GAIN * rows_per_second(loads, counts) else counts

    def _move(self, wanted: Sequence[int], busy: Sequence[float]) -> None:
        names = [side.pool.name for side in self._sides]
        before = dict(zip(names, (side.pool.count for side in self._sides), strict=True))
        shares = {name: round(share, 4) for name, share in zip(names, busy, strict=True)}
        self._emit(WorkersMoved(before, dict(zip(names, wanted, strict=True)), shares))
        for number, (side, count) in enumerate(zip(self._sides, wanted, strict=True)):
            if count < side.pool.count:
                side.pool.shrink(side.pool.count - count)
            self._owed[number] = max(0, count - side.pool.count)
        self._marks = None
        self._before = []

    def _start_owed(self) -> bool:
        """Start the workers for which others have made room."""
        loads = self._loads([1.0] * len(self._sides))
        started = False
        for number, side in enumerate(self._sides):
            while self._owed[number]:
                there = [len(other.pool.slots) for other in self._sides]
                there[number] += 1
                if not self._budget.holds(loads, there):
                    break
                side.pool.grow(1)
                self._owed[number] -= 1
                started = True
        return started

    def _loads(self, times: Sequence[float]) -> list[Load]:
        loads = []
        for side, seconds in zip(self._sides, times, strict=True):
            loads.append(Load(seconds, side.placed.num_gpus, side.placed.num_cpus))
        return loads


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
