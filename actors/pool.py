"""The workers of one side: who is loaded, who is idle, who is dead, and how busy they were."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ray.exceptions import RayError

from noisesmith.actors.inbox import Answer
from noisesmith.actors.retry import Fault, backoff, cause_of, cluster_failure, fault_of, traceback_of
from noisesmith.actors.surroundings import Surroundings, Worker
from noisesmith.pipeline.errors import RunError, UserError, reason
from noisesmith.pipeline.telemetry.events import ActorReplaced

MAX_QUEUED = 2  # batches a worker holds: one at work, one waiting
WRITER_QUEUED = 4  # calls that a writer runs at the same time: a store answers each of them late
MAX_DEATHS = 8  # of one slot in a row, without a finished batch in between
MEMORY_WAIT = 1.0  # seconds before a worker is replaced that its host had no memory for; doubled with each death


Info = TypeVar("Info")
W = TypeVar("W", bound=Worker)


@dataclass(frozen=True)
class Loaded(Generic[Info]):
    """A worker's answer once it has loaded: what it holds, and its process as HOST:PID."""

    info: Info
    where: str

    @classmethod
    def here(cls, info: Info) -> Loaded[Info]:
        return cls(info, f"{socket.gethostname()}:{os.getpid()}")


@dataclass(eq=False)
class Slot(Generic[W]):
    """The position of one worker, which a new one takes when it dies.

    ``deaths`` counts those since the last finished batch; ``alone`` is set while the worker has a suspect row, behind
    which nothing may wait; ``due`` is when the next worker is to be started, ``None`` while there is one. ``leaving``
    is set on a worker that gets no more batches, and ends once it holds none.
    """

    worker: W
    loaded: bool = False
    where: str = ""
    queued: int = 0
    deaths: int = 0
    alone: bool = False
    due: float | None = None
    leaving: bool = False


class Pool(Generic[W, Info]):
    """Workers that ``make`` creates. A dead one is replaced; the others go on while the new one loads.

    Args:
        most_queued: batches that a worker may hold.

    Attributes:
        count: workers that it is to have, without those that leave.
        seconds: time that the workers have spent on finished batches.
        info: what the workers hold, once one has loaded.
    """

    def __init__(
        self, name: str, count: int, make: Callable[[], W], around: Surroundings, most_queued: int = MAX_QUEUED
    ) -> None:
        self.name = name
        self.count = count
        self.slots: list[Slot[W]] = []
        self.seconds = 0.0
        self.info: Info | None = None
        self._make = make
        self._around = around
        # Loaded workers by the number of batches they hold: with thousands of workers nobody looks through them all.
        self._open: list[dict[Slot[W], None]] = [{} for _ in range(most_queued)]
        self._waiting: dict[Slot[W], None] = {}  # for the time at which their next worker is started
        self._loaded = 0
        self._loaded_seconds = 0.0  # up to when the number of loaded workers last changed
        self._changed_at = around.clock()

    def start(self) -> None:
        """Create all workers and let each load."""
        for _ in range(self.count):
            self.start_one()

    def start_one(self) -> None:
        """Create the next worker and let it load."""
        if not self.slots:
            self._changed_at = self._around.clock()
        slot = Slot(self._make())
        self.slots.append(slot)
        self._load(slot)

    def stop(self, keep: Callable[[W], None] | None = None) -> None:
        """End all workers, so that others can have their GPUs and cores.

        Args:
            keep: is given the loaded ones that have nothing to do, in place of their end.
        """
        for slot in self.slots:
            if keep is not None and slot.loaded and not slot.queued:
                keep(slot.worker)
            else:
                self._around.kill(slot.worker)

    def grow(self, workers: int) -> None:
        """Create further workers."""
        self.count += workers
        for _ in range(workers):
            self.start_one()

    def shrink(self, workers: int) -> None:
        """Let the workers with the fewest batches leave, each once it holds none."""
        self.count -= workers
        staying = [slot for slot in self.slots if not slot.leaving]
        staying.sort(key=lambda slot: slot.queued)
        for slot in staying[:workers]:
            slot.leaving = True
            self._sort(slot)
            if not slot.queued:
                self._remove(slot)

    @property
    def all_loaded(self) -> bool:
        """Whether every worker has loaded, and none leaves."""
        return self._loaded == len(self.slots) == self.count

    def free(self) -> Slot[W] | None:
        """The loaded worker with the fewest batches, or ``None`` when all are full."""
        for slots in self._open:
            for slot in slots:
                return slot
        return None

    def missing_seconds(self) -> float:
        """For how long no worker of this side has been loaded; 0 while one is."""
        return 0.0 if self._loaded else self._around.clock() - self._changed_at

    def loaded_seconds(self) -> float:
        """The time for which workers of this side have been loaded, in worker-seconds."""
        return self._loaded_seconds + self._loaded * (self._around.clock() - self._changed_at)

    def sent(self, slot: Slot[W], alone: bool) -> None:
        """Account for a batch given to a worker."""
        slot.queued += 1
        slot.alone = alone
        self._sort(slot)

    def done(self, slot: Slot[W], worker: W, seconds: float) -> None:
        """Account for a batch that ``worker`` finished, which may since have died and been replaced."""
        self.seconds += seconds
        if self._holds(slot, worker):
            slot.deaths = 0
            self._returned(slot)

    def failed(self, slot: Slot[W], worker: W, error: RayError) -> None:
        """Account for a failed batch; a worker that died is replaced, once per death.

        Raises:
            RunError: this slot's workers died too often in a row, or Ray cannot go on.
        """
        fault = fault_of(error)
        if fault is Fault.CLUSTER:
            raise cluster_failure(error) from error
        if not self._holds(slot, worker):
            return
        if fault.is_death:
            self._replace(slot, error)
        else:
            self._returned(slot)

    def start_due(self) -> None:
        """Start the workers whose wait is over."""
        for slot in list(self._waiting):
            if slot.due is not None and slot.due <= self._around.clock():
                del self._waiting[slot]
                self._start(slot)

    def _holds(self, slot: Slot[W], worker: W) -> bool:
        """Whether a worker whose answer arrives still has its slot: otherwise its death has been accounted for."""
        return worker is slot.worker and slot.due is None

    def _load(self, slot: Slot[W]) -> None:
        worker = slot.worker
        self._around.inbox.expect(worker.load.remote(), lambda answer: self._answered(slot, worker, answer))

    def _answered(self, slot: Slot[W], worker: W, answer: Answer) -> None:
        """Take the answer of a worker that has loaded, or failed to.

        Raises:
            UserError: its model cannot be loaded; the loader's own sentence.
            RunError: it loaded another model than the first, none has ever loaded, too many died, or Ray cannot go on.
        """
        if not self._holds(slot, worker):
            return
        try:
            loaded: Loaded[Info] = answer.result()
        except RayError as error:
            cause = cause_of(error)
            if isinstance(cause, UserError):
                raise UserError(str(cause)) from error
            if fault_of(error) is Fault.CLUSTER:
                raise cluster_failure(error) from error
            if self.info is None and cause is not error:
                raise RunError(f"a {self.name} failed while loading ({reason(cause)})") from error
            self._replace(slot, error)
            return
        if self.info is not None and loaded.info != self.info:
            raise RunError(f"the {self.name} at {loaded.where} has loaded {loaded.info}, the others {self.info}")
        self.info = loaded.info
        slot.where = loaded.where
        slot.loaded = True
        self._count_loaded(1)
        self._sort(slot)

    def _returned(self, slot: Slot[W]) -> None:
        slot.queued -= 1
        slot.alone = False
        self._sort(slot)
        if slot.leaving and not slot.queued:
            self._remove(slot)

    def _remove(self, slot: Slot[W]) -> None:
        """End a worker that leaves; whatever it still answers is ignored."""
        self.slots.remove(slot)
        self._waiting.pop(slot, None)
        if slot.loaded:
            self._count_loaded(-1)
        if slot.due is None:
            self._around.kill(slot.worker)
        slot.due = math.inf

    def _sort(self, slot: Slot[W]) -> None:
        """Keep the slot where :meth:`free` looks for it."""
        for slots in self._open:
            slots.pop(slot, None)
        if slot.loaded and not slot.alone and not slot.leaving and slot.queued < len(self._open):
            self._open[slot.queued][slot] = None

    def _replace(self, slot: Slot[W], error: RayError) -> None:
        """Replace a dead worker: at once, or after a wait where its host is short of memory."""
        if slot.leaving:
            self._remove(slot)
            return
        slot.deaths += 1
        if slot.deaths >= MAX_DEATHS:
            raise RunError(
                f"a {self.name} died {slot.deaths} times in a row without finishing a batch ({reason(error)})"
            ) from error
        self._around.emit(
            ActorReplaced(self.name, slot.where, slot.deaths, reason(error), traceback=traceback_of(error))
        )
        self._around.kill(slot.worker)
        if slot.loaded:
            self._count_loaded(-1)
        slot.loaded = False
        slot.queued = 0
        slot.alone = False
        self._sort(slot)
        if fault_of(error) is Fault.KILLED:
            slot.due = self._around.clock() + backoff(MEMORY_WAIT, slot.deaths)
            self._waiting[slot] = None
        else:
            self._start(slot)

    def _count_loaded(self, change: int) -> None:
        self._loaded_seconds = self.loaded_seconds()
        self._changed_at = self._around.clock()
        self._loaded += change

    def _start(self, slot: Slot[W]) -> None:
        slot.due = None
        slot.worker = self._make()
        self._load(slot)


AnyPool = Pool[Any, Any]
