"""The world without Ray, for searches whose generators pause."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

from tests.actors.world import FakeWorker, Sent, World


class Parts(World):
    """A world whose generators pause where a probe stops, and that notes what part of the steps each call takes."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[set[tuple[int, int | None]]] = []
        self.resumed: list[bool] = []
        self._pausing: set[Any] = set()

    def receive(self, worker: FakeWorker, stage: str, arguments: tuple[Any, ...]) -> Any:
        references = super().receive(worker, stage, arguments)
        if stage == "generate":
            orders = pickle.loads(arguments[0])
            self.parts.append({(order.task.taken, order.task.stop) for order in orders})
            self.resumed += [order.paused is not None for order in orders if order.task.taken]
            if orders[0].task.stop is not None:
                self._pausing.add(references[0])
        return references

    def _report(self, sent: Sent) -> Any:
        report = super()._report(sent)
        if sent.reference in self._pausing:
            return replace(report, paused=report.states)
        return report
