"""The actors of one side: who is loaded, who is idle, who is dead, and how busy they were."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from noisesmith.actors.retry import Fault, fault_of
from noisesmith.pipeline.errors import RunError, UserError, reason
from noisesmith.pipeline.telemetry.events import ActorReplaced, Event

MAX_QUEUED = 2  # batches an actor holds: one at work, one waiting
MAX_DEATHS = 8  # of one place in a row, without a batch done in between


@dataclass(frozen=True)
class Loaded:
    """An actor's answer once it has loaded: what it holds, and its process as HOST:PID."""

    info: Any
    where: str

    @classmethod
    def here(cls, info: Any) -> Loaded:
        return cls(info, f"{socket.gethostname()}:{os.getpid()}")


@dataclass
class Slot:
    """One actor's place.

    ``loading`` is the reference of its answer until it has loaded, ``deaths`` counts those since the last batch that
    was done, and ``alone`` is set while it works on rows behind which nothing may wait.
    """

    handle: Any
    loading: Any
    where: str = ""
    queued: int = 0
    deaths: int = 0
    alone: bool = False


@dataclass
class Pool:
    """Actors made by ``make``. A dead one is replaced; the others go on while it loads or waits for its GPU."""

    name: str
    count: int
    make: Callable[[], Any]
    emit: Callable[[Event], None]
    slots: list[Slot] = field(default_factory=list)
    seconds: float = 0.0
    info: Any = None
    idle_since: float = field(default_factory=time.monotonic)  # since when no actor has been there to work

    def start(self) -> None:
        """Create all actors and ask each to load."""
        self.slots = [self._begin() for _ in range(self.count)]
        self.idle_since = time.monotonic()

    def stop(self) -> None:
        """End all actors, so that others can have their GPUs and cores."""
        for slot in self.slots:
            ray.kill(slot.handle)

    @property
    def loading(self) -> dict[Any, Slot]:
        """Places whose actor has not loaded yet, by the reference of its answer."""
        return {slot.loading: slot for slot in self.slots if slot.loading is not None}

    def loaded(self, slot: Slot) -> None:
        """Take the answer of an actor that has loaded, or failed to.

        Raises:
            UserError: its model cannot be loaded; the loader's own sentence.
            RunError: it loaded another model than the first, or none has ever loaded, or too many died.
        """
        try:
            answer: Loaded = ray.get(slot.loading)
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else None
            if isinstance(cause, UserError):
                raise UserError(str(cause)) from None
            if self.info is None and cause is not None:
                raise RunError(f"a {self.name} failed while loading ({reason(cause)})") from error
            self._replace(slot, error)
            return
        if self.info is not None and answer.info != self.info:
            raise RunError(f"the {self.name} at {answer.where} has loaded {answer.info}, the others {self.info}")
        self.info, slot.where, slot.loading = answer.info, answer.where, None

    def free(self) -> Slot | None:
        """The loaded actor with the fewest queued batches, or ``None`` when all are full."""
        open_slots = [slot for slot in self.slots if slot.loading is None and not slot.alone]
        slot = min(open_slots, key=lambda slot: slot.queued, default=None)
        return slot if slot is not None and slot.queued < MAX_QUEUED else None

    def missing_seconds(self) -> float:
        """For how long no actor of this side has been loaded; 0 while one is."""
        if any(slot.loading is None for slot in self.slots):
            self.idle_since = time.monotonic()
        return time.monotonic() - self.idle_since

    def done(self, slot: Slot, handle: Any, seconds: float) -> None:
        """Account for a batch that ``handle`` finished, who may since have died and been replaced."""
        self.seconds += seconds
        if handle is slot.handle:
            self._end(slot)
            slot.deaths = 0

    def failed(self, slot: Slot, handle: Any, error: RayError) -> bool:
        """Account for a failed batch; where its actor died, put a new one in its place (once a death).

        Returns:
            whether an actor was replaced.

        Raises:
            RunError: this place has died too often in a row.
        """
        if handle is not slot.handle:
            return False
        if fault_of(error) is Fault.ACTOR:
            self._replace(slot, error)
            return True
        self._end(slot)
        return False

    def _end(self, slot: Slot) -> None:
        slot.queued, slot.alone = slot.queued - 1, False

    def _begin(self) -> Slot:
        handle = self.make()
        return Slot(handle, handle.load.remote())

    def _replace(self, slot: Slot, error: RayError) -> None:
        slot.deaths += 1
        if slot.deaths >= MAX_DEATHS:
            raise RunError(
                f"a {self.name} died {slot.deaths} times in a row without finishing a batch ({reason(error)})"
            )
        self.emit(ActorReplaced(self.name, slot.where, slot.deaths, reason(error)))
        ray.kill(slot.handle)
        fresh = self._begin()
        slot.handle, slot.loading, slot.queued, slot.alone = fresh.handle, fresh.loading, 0, False
