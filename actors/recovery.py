"""What becomes of the rows of a failed call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray.exceptions import RayError

from noisesmith.actors.retry import Fault, cause_of, fault_of
from noisesmith.actors.row_task import RowTask, Waiting
from noisesmith.actors.stage import AnyCall, AnyStage
from noisesmith.pipeline.telemetry.events import Event, RowRetried


@dataclass(frozen=True)
class Recovery:
    """Puts the rows of failed calls back where they can go on, ends their search early, or lets them fail for good.

    ``first`` is the stage at which a search starts, ``finished`` the one that takes searches that have ended.
    ``scores`` are the stages at which one row may be at the same time. ``bury`` is called with each row that failed.
    """

    retries: int
    backoff_seconds: float
    waiting: Waiting[AnyStage]
    first: AnyStage
    finished: AnyStage
    scores: Sequence[AnyStage]
    bury: Callable[[RowTask], None]
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
        for _, row in call.current():
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
            self._withdraw(row)
            row.restart()
            stage = self.first
            row.suspect_at.add(stage.name)
        if row.faults.allow_another(self.retries):
            self.waiting.add(row.faults.delay(fault, self.backoff_seconds), stage, row)
            return
        unusable = isinstance(cause_of(error), ArithmeticError)
        self._withdraw(row)
        if unusable and row.search.scores and not row.search.finished:
            # This round's image is of no use, but the best one before it is.
            row.search.abandon()
            row.faults.succeeded()
            self.finished.queue.add(row)
            return
        row.failed = True
        self.bury(row)

    def _withdraw(self, row: RowTask) -> None:
        """Take a row out of the stages at which other groups of scorers were to look at its current image."""
        row.withdraw()
        self.waiting.discard(row)
        for stage in self.scores:
            stage.queue.discard(row)
