"""Rows in flight and the calls that carry them."""

from __future__ import annotations

import heapq
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayError

from noisesmith.actors.pool import Slot
from noisesmith.actors.retry import cause_of
from noisesmith.pipeline.errors import reason
from noisesmith.pipeline.search.row import RowSearch


@dataclass
class Flight:
    """A row in flight: its search, the references to what its next call needs, and what has gone wrong so far.

    ``failures`` counts calls
    that raised with this row alone, ``deaths`` actors that died in a row with it alone, ``losses`` how often its
    objects were lost. ``suspect`` means that the last call which carried it failed: it travels alone, so that no other
    row pays for it.
    """

    search: RowSearch[Any, Any]
    latents: Any = None
    judges: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    failures: int = 0
    deaths: int = 0
    losses: int = 0
    suspect: bool = False
    given_up: bool = False
    admitted: float = field(default_factory=time.monotonic)

    @property
    def last_attempt(self) -> dict[str, Any]:
        """The last failed call, as events report it."""
        last = self.attempts[-1]
        fields = {name: last[name] for name in ("actor", "error", "message")}
        return {"attempt": len(self.attempts), "stage": last["where"], **fields}

    def blame(self, call: Call, error: RayError) -> None:
        """Record a failed call that carried this row."""
        cause = cause_of(error)
        self.attempts.append(
            {
                "error": type(cause).__name__,
                "message": reason(cause),
                "where": call.kind,
                "round": self.search.images[-1].round if self.search.images else 0,
                "batch_size": len(call.flights),
                "actor": call.slot.where,
            }
        )
        self.suspect = True

    def clear(self) -> None:
        """A call that carried this row has succeeded."""
        self.suspect, self.deaths = False, 0

    def restart(self) -> None:
        """Begin the row's search anew: what it had come to is lost."""
        self.search = RowSearch(self.search.row, self.search.config)
        self.judges = {}
        self.latents = None


@dataclass(frozen=True)
class Call:
    """One actor call in flight: which step it is of which rows, where, and the references of what it returns."""

    kind: str
    flights: list[Flight]
    slot: Slot
    handle: Any
    returns: list[Any]


class Waiting:
    """Rows that wait before they are tried again."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, Flight]] = []
        self._count = 0

    def add(self, seconds: float, kind: str, flight: Flight) -> None:
        self._count += 1  # so that no two flights are compared
        heapq.heappush(self._heap, (time.monotonic() + seconds, self._count, kind, flight))

    def due(self) -> list[tuple[str, Flight]]:
        """Take those whose time has come."""
        found = []
        while self._heap and self._heap[0][0] <= time.monotonic():
            _, _, kind, flight = heapq.heappop(self._heap)
            found.append((kind, flight))
        return found

    def clear(self) -> None:
        self._heap.clear()

    def __len__(self) -> int:
        return len(self._heap)


def take(queue: deque[Flight], size: int, kind: str) -> list[Flight]:
    """The next batch: the first in the queue and those behind it with as many sampler steps; a suspect one alone."""
    first = queue.popleft()
    if first.suspect:
        return [first]
    batch, steps = [first], first.search.next_image().steps if kind == "generate" else None
    for flight in list(queue):
        if len(batch) == size:
            break
        if not flight.suspect and (steps is None or flight.search.next_image().steps == steps):
            queue.remove(flight)
            batch.append(flight)
    return batch
