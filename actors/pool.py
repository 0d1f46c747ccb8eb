"""The actors of one side: who is idle, who is dead, and how busy they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from pipeline.errors import RunError, UserError, reason

MAX_QUEUED = 2  # batches an actor holds: one at work, one waiting
MAX_DEATHS = 5  # of one place in a row, without a batch done in between


@dataclass
class Slot:
    """One actor's place. ``deaths`` counts those since the last batch that was done."""

    handle: Any
    queued: int = 0
    deaths: int = 0


@dataclass
class Pool:
    """Actors made by ``make``, each loaded before its first batch."""

    name: str
    count: int
    make: Callable[[], Any]
    slots: list[Slot] = field(default_factory=list)
    seconds: float = 0.0

    def start(self) -> list[Any]:
        """Create all actors and ask each to load; returns the references of their answers."""
        self.slots = [Slot(self.make()) for _ in range(self.count)]
        return [slot.handle.load.remote() for slot in self.slots]

    def stop(self) -> None:
        """End all actors, so that others can have their GPUs and cores."""
        for slot in self.slots:
            ray.kill(slot.handle)

    def free(self) -> Slot | None:
        """The actor with the fewest queued batches, or ``None`` when all are full."""
        slot = min(self.slots, key=lambda slot: slot.queued)
        return slot if slot.queued < MAX_QUEUED else None

    def done(self, slot: Slot, handle: Any, seconds: float) -> None:
        """Account for a batch that ``handle`` finished, who may since have died and been replaced."""
        self.seconds += seconds
        if handle is slot.handle:
            slot.queued -= 1
            slot.deaths = 0

    def failed(self, slot: Slot, handle: Any, error: Exception) -> None:
        """Account for a failed batch; where its actor died, put a new one in its place (once a death).

        Raises:
            RunError: this place has died too often in a row.
        """
        if handle is not slot.handle:
            return
        slot.queued -= 1
        if isinstance(error, RayActorError):
            slot.deaths += 1
            if slot.deaths >= MAX_DEATHS:
                raise RunError(
                    f"a {self.name} died {slot.deaths} times in a row without finishing a batch ({reason(error)})"
                )
            ray.kill(slot.handle)
            slot.handle, slot.queued = self.make(), 0
            slot.handle.load.remote()


def loaded(references: list[Any]) -> list[Any]:
    """The answers of actors that load their models.

    Raises:
        UserError: a model cannot be loaded; the loader's own sentence.
        RunError: an actor died while loading.
    """
    try:
        return ray.get(references)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise RunError(f"an actor failed while loading its model ({reason(error.cause or error)})") from error
    except RayActorError as error:
        raise RunError(f"an actor died while loading its model ({reason(error)})") from error
