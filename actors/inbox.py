"""Waiting for the answers of remote calls and of threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from noisesmith.actors.packs import Reference

Answer = Future[Any]  # done: its ``result()`` is what the call returned, or raises a RayError
Handler = Callable[[Answer], None]


class Inbox:
    """Collects answers as they arrive, so that waiting costs the same whether ten calls are open or thousands.

    (``ray.wait`` looks at every open reference each time.)
    """

    def __init__(self) -> None:
        self._arrived: SimpleQueue[tuple[Handler, Answer]] = SimpleQueue()

    def expect(self, reference: Reference, handler: Handler) -> None:
        """Have ``handler`` called with the answer, by the thread that calls :meth:`handle`."""
        self.await_future(reference.future(), handler)

    def await_future(self, future: Answer, handler: Handler) -> None:
        """Have ``handler`` called in the same way with what a thread of this process answers."""
        future.add_done_callback(partial(self._arrive, handler))

    def handle(self, seconds: float) -> None:
        """Wait at most ``seconds`` for an answer, then call the handlers of all that have arrived."""
        try:
            handler, answer = self._arrived.get(timeout=seconds)
            while True:
                handler(answer)
                handler, answer = self._arrived.get_nowait()
        except Empty:
            return

    def _arrive(self, handler: Handler, answer: Answer) -> None:
        """Runs in another thread."""
        self._arrived.put((handler, answer))
