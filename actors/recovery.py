"""What becomes of the rows of a failed call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ray.exceptions import RayError

from noisesmith.actors.retry import Fault, cause_of, fault_of
from noisesmith.actors.row_task import RowTask, Waiting
from noisesmith.actors.stage import AnyCall, AnyStage
from noisesmith.pipeline.telemetry.events import Event, RowRetried


@dataclass(frozen=True)
class Recovery:
    """Puts the rows of failed calls back where they can go on, ends their search early, or lets them fail for good.

    ``first`` is the stage at which a search starts, ``finished`` the one that takes searches that have ended, ``write``
    the one that takes rows that failed.
    """

    retries: int
    backoff_seconds: float
    waiting: Waiting[AnyStage]
    first: AnyStage
    finished: AnyStage
    write: AnyStage
    emit: Callable[[Event], None]

    def failed(self, call: AnyCall, error: RayError) -> None:
        """Decide about every row of a failed call.

        Raises:
            RunError: the failure ends the run.
        """
        fault = fault_of(error)
        where = call.slot.where  # before a new worker takes the slot
        call.stage.pool.failed(call.slot, call.worker, error)
        if call.stage.take_back(call, fault, error):
            return
        for row in call.rows:
            row.blame(error, call.stage.name, len(call.rows), where)
            if len(call.rows) == 1 or fault is Fault.OBJECT:
                self._decide(call.stage, row, fault, error)
            else:  # each goes alone from now on, which shows whose fault it was
                call.stage.queue.add(row)
            if not row.failed:
                self.emit(RowRetried(**row.last_failure()))

    def _decide(self, stage: AnyStage, row: RowTask, fault: Fault, error: RayError) -> None:
        """Decide about a row whose call failed with it alone, or whose objects are lost."""
        row.faults.count(fault)
        if fault is Fault.OBJECT:
            row.restart()
            stage = self.first
        if row.faults.allow_another(self.retries):
            self.waiting.add(row.faults.delay(fault, self.backoff_seconds), stage, row)
            return
        unusable = isinstance(cause_of(error), ArithmeticError)
        row.suspect = False
        if unusable and row.search.scores and not row.search.finished:
            # This round's image is of no use, but the best one before it is.
            row.search.abandon()
            row.clear()
            self.finished.queue.add(row)
            return
        row.failed = True
        self.write.queue.add(row)
