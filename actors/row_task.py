"""Rows in flight, and the queue from which a stage forms its batches."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from ray.exceptions import RayError

from noisesmith.actors.packs import Pack, Stored
from noisesmith.actors.retry import RowFaults, cause_of, traceback_of
from noisesmith.pipeline.errors import reason
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.row import RowSearch

# Rows whose arrays a call reads, per row of a full batch. Each pack is read whole, so a batch of rows from many packs
# reads more than it uses: it is sent smaller where it would exceed this.
MAX_READ = 8
LOOK_AHEAD = 4  # batches: how far down the queue a batch looks for rows of the packs that it reads anyway


@dataclass(frozen=True)
class Attempt:
    """One failed call that carried a row, as its dead letter has it.

    ``where`` is the stage, ``actor`` the worker as HOST:PID, ``traceback`` its full text in the worker.
    """

    error: str
    message: str
    traceback: str
    where: str
    round: int
    batch_size: int
    actor: str


@dataclass(eq=False)
class RowTask:
    """A row in flight: its search, and what has gone wrong with its calls.

    Attributes:
        admitted: time of the driver's clock.
        pictures: the PNG files of the images to write, by number, once they are rendered.
        judges: every judge's scores of the first and the kept image.
        opinions: what each group of scorers says of the current image, by the group's index.
        suspect_at: the stages whose last call with this row failed. There it travels alone, so that no other row
            suffers for it.
        turn: counts how often the row has left calls behind that may still carry it; their answers are not for it.
        failed: no attempt is left; a dead letter is to be written.
    """

    search: RowSearch[Stored]
    admitted: float
    pictures: dict[int, Stored] = field(default_factory=dict)
    judges: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    faults: RowFaults = field(default_factory=RowFaults)
    opinions: dict[int, Opinion[Stored]] = field(default_factory=dict)
    suspect_at: set[str] = field(default_factory=set)
    turn: int = 0
    failed: bool = False

    def blame(self, error: RayError, stage: str, batch_size: int, actor: str) -> None:
        """Record a failed call that carried this row."""
        cause = cause_of(error)
        images = self.search.images
        attempt = Attempt(
            error=type(cause).__name__,
            message=reason(cause),
            traceback=traceback_of(error),
            where=stage,
            round=images[-1].round if images else 0,
            batch_size=batch_size,
            actor=actor,
        )
        self.attempts.append(attempt)
        self.suspect_at.add(stage)

    def last_failure(self) -> dict[str, Any]:
        """The last failed call, as the fields of an event."""
        last = self.attempts[-1]
        return {
            "row": self.search.row.id,
            "attempt": len(self.attempts),
            "stage": last.where,
            "actor": last.actor,
            "error": last.error,
            "message": last.message,
            "traceback": last.traceback,
        }

    def clear(self, stage: str) -> None:
        """A call that carried this row has succeeded."""
        self.suspect_at.discard(stage)
        self.faults.succeeded()

    def withdraw(self) -> None:
        """Leave the current image: whatever other groups of scorers still answer about it is not for this row."""
        self.turn += 1
        self.opinions = {}
        self.suspect_at = set()

    def restart(self) -> None:
        """Search from the first image again: objects that the search needs are lost."""
        self.search = RowSearch(self.search.row, self.search.config)
        self.pictures = {}
        self.judges = {}


class RowQueue:
    """Rows that wait for a stage, in order of arrival.

    Args:
        stage: its name.
        lane_of: rows share a batch only where this is equal, such as their number of sampler steps.
        packs_of: the packs in which the arrays lie that a row's next call reads.
        most_read: rows whose arrays one call may read (see :data:`MAX_READ`).
    """

    def __init__(
        self,
        stage: str,
        lane_of: Callable[[RowTask], Hashable],
        packs_of: Callable[[RowTask], Sequence[Pack]],
        most_read: int,
    ) -> None:
        self._stage = stage
        self._lane_of = lane_of
        self._packs_of = packs_of
        self._most_read = most_read
        self._lanes: dict[Hashable, deque[tuple[int, RowTask]]] = {}
        self._length = 0
        self._last_arrival = 0
        self._first_arrival = 0

    def add(self, row: RowTask) -> None:
        self._last_arrival += 1
        self._lane(row).append((self._last_arrival, row))
        self._length += 1

    def put_back(self, rows: Sequence[RowTask]) -> None:
        """Put rows that were taken to the front again."""
        for row in reversed(rows):
            self._first_arrival -= 1
            self._lane(row).appendleft((self._first_arrival, row))
            self._length += 1

    def take(self, size: int, full: bool) -> list[RowTask]:
        """Take the next batch: the first row of the queue, and rows that may share its call.

        Rows that lie in the same packs come first, so that rows which travelled together stay together. A suspect row
        is taken alone.

        Args:
            full: take nothing unless the batch has ``size`` rows, none of them suspect.
        """
        if not self._length:
            return []
        key = min(self._lanes, key=lambda lane: self._lanes[lane][0][0])
        lane = self._lanes[key]
        first = lane[0][1]
        alone = self.is_suspect(first)
        if full and (alone or len(lane) < size):  # the usual answer: every answer of a worker leads to this question
            return []
        batch = [first] if alone else self._batch(lane, size)
        if full and len(batch) < size:
            return []
        self._remove(key, batch)
        return batch

    def is_suspect(self, row: RowTask) -> bool:
        """Whether the row's last call here failed."""
        return self._stage in row.suspect_at

    def discard(self, row: RowTask) -> None:
        """Take a row out, if it is here."""
        for key, lane in list(self._lanes.items()):
            if any(waiting is row for _, waiting in lane):
                self._remove(key, [row])

    def clear(self) -> None:
        self._lanes.clear()
        self._length = 0

    def rows(self) -> list[RowTask]:
        """All that wait, in no particular order."""
        waiting: list[RowTask] = []
        for lane in self._lanes.values():
            waiting.extend(row for _, row in lane)
        return waiting

    def __len__(self) -> int:
        return self._length

    def _lane(self, row: RowTask) -> deque[tuple[int, RowTask]]:
        # A suspect row has a lane of its own, so that it never holds up or joins a batch.
        key = ("suspect", id(row)) if self.is_suspect(row) else ("batch", self._lane_of(row))
        return self._lanes.setdefault(key, deque())

    def _batch(self, lane: deque[tuple[int, RowTask]], size: int) -> list[RowTask]:
        by_packs: dict[tuple[Pack, ...], list[RowTask]] = {}
        for _, row in islice(lane, LOOK_AHEAD * size):
            by_packs.setdefault(tuple(self._packs_of(row)), []).append(row)
        batch: list[RowTask] = []
        packs: set[Pack] = set()
        for needed, rows in by_packs.items():
            read = sum(pack.rows for pack in packs.union(needed))
            if batch and (len(batch) == size or read > self._most_read):
                break
            packs.update(needed)
            batch.extend(rows[: size - len(batch)])
        return batch

    def _remove(self, key: Hashable, batch: list[RowTask]) -> None:
        lane = self._lanes[key]
        taken = set(batch)
        passed_over = []
        while taken:
            entry = lane.popleft()
            if entry[1] in taken:
                taken.remove(entry[1])
            else:
                passed_over.append(entry)
        lane.extendleft(reversed(passed_over))
        if not lane:
            del self._lanes[key]
        self._length -= len(batch)


Target = TypeVar("Target")


class Waiting(Generic[Target]):
    """Rows that wait before they are tried again, and the stage that will take each of them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Target, RowTask]] = []
        self._count = 0

    def add(self, seconds: float, stage: Target, row: RowTask) -> None:
        self._count += 1  # orders rows of the same moment, since rows have no order
        heapq.heappush(self._heap, (self._clock() + seconds, self._count, stage, row))

    def due(self) -> list[tuple[Target, RowTask]]:
        """Take those whose time has come."""
        found = []
        while self._heap and self._heap[0][0] <= self._clock():
            _, _, stage, row = heapq.heappop(self._heap)
            found.append((stage, row))
        return found

    def seconds_left(self, most: float) -> float:
        """Seconds until the next row is due, in [0, ``most``]."""
        if not self._heap:
            return most
        return min(most, max(0.0, self._heap[0][0] - self._clock()))

    def discard(self, row: RowTask) -> None:
        """Take a row out, whichever stage it waits for."""
        self._heap = [entry for entry in self._heap if entry[3] is not row]
        heapq.heapify(self._heap)

    def clear(self) -> None:
        self._heap.clear()

    def __len__(self) -> int:
        return len(self._heap)
