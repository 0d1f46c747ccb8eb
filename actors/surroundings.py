"""What pools and stages use of the world around them: remote workers, time and threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import ray

from noisesmith.actors.inbox import Inbox
from noisesmith.actors.packs import Reference
from noisesmith.pipeline.telemetry.events import Event

THREADS = 4  # of the driver, which wait for a disk or a store


class Method(Protocol):
    """A method of a remote worker that returns one object."""

    def remote(self, *arguments: object) -> Reference: ...


class Worker(Protocol):
    """A remote worker, as every pool uses it."""

    @property
    def load(self) -> Method: ...


@dataclass(frozen=True)
class Surroundings:
    """What pools and stages use of the world around them; tests replace it, so that they need neither Ray nor time.

    ``clock`` gives seconds, ``kill`` ends a worker, ``threads`` run what would keep the driver waiting.
    """

    emit: Callable[[Event], None]
    inbox: Inbox = field(default_factory=Inbox)
    clock: Callable[[], float] = time.monotonic
    kill: Callable[[Worker], None] = ray.kill
    threads: Executor = field(default_factory=partial(ThreadPoolExecutor, THREADS))
