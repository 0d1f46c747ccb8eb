"""What a session of a run has done so far, counted from its events."""

from __future__ import annotations

import time
from collections import Counter

from noisesmith.pipeline.telemetry.events import Event, RowFailed, RowRetried, RowWritten, RunStarted


class Tally:
    """Counts since the models were loaded: rows written and failed, retries, rounds; and what follows from them.

    Attributes:
        total: rows of the corpus.
        before: those that earlier sessions have done.
        failed: rows given up, by class of error.
        errors: failed calls, by class of error; more than one may be a row's.
    """

    def __init__(self) -> None:
        self.total = self.before = self.rows = self.rounds = self.retries = 0
        self.failed: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._first = self._kept = 0.0
        self._begun = time.monotonic()

    def count(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.total, self.before, self._begun = event.rows, event.done, time.monotonic()
            case RowWritten():
                self.rows += 1
                self.rounds += event.rounds
                self._first += event.score_initial
                self._kept += event.score
            case RowRetried():
                self.retries += 1
                self.errors[event.error] += 1
            case RowFailed():
                self.failed[event.error] += 1
                self.errors[event.error] += 1

    @property
    def done(self) -> int:
        """Rows that need no more work, by this session or earlier ones."""
        return self.before + self.rows + self.failed.total()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    @property
    def rows_per_minute(self) -> float:
        """Rows written, since the models were loaded."""
        return 60 * self.rows / max(self.seconds, 1e-9)

    @property
    def eta_seconds(self) -> float | None:
        """Until every row is done at the pace so far; ``None`` before the first."""
        here = self.done - self.before
        return (self.total - self.done) * self.seconds / here if here else None

    @property
    def scores(self) -> tuple[float, float] | None:
        """Means of the written rows' first and kept scores; ``None`` before the first."""
        return (self._first / self.rows, self._kept / self.rows) if self.rows else None
