"""What all stages have in common: a queue of rows, a pool of workers, and batches that go from one to the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ray.exceptions import RayError

from noisesmith.actors.packs import Pack, Reference
from noisesmith.actors.pool import Pool, Slot
from noisesmith.actors.retry import Fault
from noisesmith.actors.row_task import MAX_READ, RowQueue, RowTask
from noisesmith.actors.surroundings import Worker
from noisesmith.pipeline.telemetry.events import BatchHalved, Event

W = TypeVar("W", bound=Worker)
Info = TypeVar("Info")
Report = TypeVar("Report")


@dataclass(frozen=True, eq=False)
class Call(Generic[W, Info, Report]):
    """One batch at a worker: the reference of the report that it will return, and those of its packs.

    ``turns`` are those of the rows when it was sent.
    """

    stage: Stage[W, Info, Report]
    rows: list[RowTask]
    slot: Slot[W]
    worker: W
    report: Reference
    packs: list[Reference]
    turns: list[int]

    def current(self) -> list[tuple[int, RowTask]]:
        """The rows that its answer is for, with their positions in the batch: the others have left it behind."""
        found = []
        for position, row in enumerate(self.rows):
            if row.turn == self.turns[position]:
                found.append((position, row))
        return found

    def pack(self) -> Pack:
        """The driver's view of the pack that comes with the report."""
        return Pack(self.packs[0], len(self.rows))


class Stage(ABC, Generic[W, Info, Report]):
    """A queue of rows and the pool of workers that take batches from it.

    Args:
        name: of the stage, in messages and in the log.
        batch_size: rows per call; halved when a batch does not fit into a worker's memory.
        largest_batch: of all stages, which bounds the number of rows in a pack.
        arrays_per_row: that a call reads.

    Attributes:
        calls: that have been answered; ``rows`` is what they have carried.
    """

    def __init__(
        self,
        name: str,
        pool: Pool[W, Info],
        batch_size: int,
        largest_batch: int,
        emit: Callable[[Event], None],
        arrays_per_row: int = 1,
    ) -> None:
        self.name = name
        self.pool = pool
        self.batch_size = batch_size
        self.calls = 0
        self.rows = 0
        most_read = MAX_READ * arrays_per_row * largest_batch
        self.queue = RowQueue(name, self.lane_of, self.packs_of, most_read)
        self._emit = emit

    def dispatch(self) -> Iterator[Call[W, Info, Report]]:
        """Send queued rows to workers with room.

        An idle worker takes any batch. A busy one is given only a full batch ahead of time: it would otherwise hold
        rows that another worker could take sooner. A suspect row goes to an idle worker alone, and nothing waits behind
        it: if the worker dies, it was that row.
        """
        while self.queue and (slot := self.pool.free()) is not None:
            rows = self.queue.take(self.batch_size, full=slot.queued > 0)
            if not rows:
                return
            report, *packs = self.submit(slot.worker, rows)
            self.pool.sent(slot, alone=self.queue.is_suspect(rows[0]))
            yield Call(self, rows, slot, slot.worker, report, packs, [row.turn for row in rows])

    def succeeded(self, call: Call[W, Info, Report], report: Report) -> None:
        """Take the answer to a call, and hand its rows on."""
        self.pool.done(call.slot, call.worker, self.seconds_of(report))
        self.calls += 1
        self.rows += len(call.rows)
        for _, row in call.current():
            row.clear(self.name)
        self.receive(call, report)

    def take_back(self, call: Call[W, Info, Report], fault: Fault, error: RayError) -> bool:
        """Queue the rows of a failed call again where the failure says nothing about any of them."""
        rows = call.rows
        if fault not in (Fault.MEMORY, Fault.KILLED) or len(rows) == 1:
            return False
        self.batch_size = min(self.batch_size, len(rows) // 2)
        self._emit(BatchHalved(self.name, call.slot.where, self.batch_size))
        self.queue.put_back([row for _, row in call.current()])
        return True

    def lane_of(self, row: RowTask) -> Hashable:
        """Rows share a batch only where this is equal."""
        return None

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        """The packs in which the arrays lie that the row's call reads."""
        return ()

    @abstractmethod
    def submit(self, worker: W, rows: list[RowTask]) -> list[Reference]:
        """Call the worker; returns the reference of its report, then those of its packs."""

    @abstractmethod
    def receive(self, call: Call[W, Info, Report], report: Report) -> None:
        """Record what a call made of its current rows, and hand each to its next stage."""

    @abstractmethod
    def seconds_of(self, report: Report) -> float:
        """How long the worker worked."""


AnyStage = Stage[Any, Any, Any]
AnyCall = Call[Any, Any, Any]
