"""What a session of a run has done so far, counted from its events."""

from __future__ import annotations

import time
from collections import Counter

from noisesmith.pipeline.telemetry.events import Event, RowFailed, RowRetried, RowWritten, RunStarted, Snapshot


class Tally:
    """Counts the rows, rounds, images and failures of one session, and derives its rates and the time left.

    Attributes:
        total: rows of the corpus.
        before: rows that earlier sessions have done.
        rows: rows written by this session; ``rounds`` are their search rounds.
        retries: failed calls after which the row was tried again.
        failed: rows that failed for good, by class of error.
        errors: failed calls, by class of error; one row may have several.
        in_flight: rows admitted and not yet written.
        images_done: images scored by this session, those of rows in flight included.
        images_planned: the most that ``images_done`` can still reach.
    """

    def __init__(self) -> None:
        self.total = 0
        self.before = 0
        self.rows = 0
        self.rounds = 0
        self.retries = 0
        self.failed: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.in_flight = 0
        self.images_done = 0
        self.images_planned = 0
        self._planned_at_start = 0
        self._sum_of_first_scores = 0.0
        self._sum_of_kept_scores = 0.0
        self._started = time.monotonic()

    def count(self, event: Event) -> None:
        """Add one event."""
        match event:
            case RunStarted():
                self.total = event.rows
                self.before = event.done
                self._started = time.monotonic()
            case RowWritten():
                self.rows += 1
                self.rounds += event.rounds
                self._sum_of_first_scores += event.score_initial
                self._sum_of_kept_scores += event.score
            case RowRetried():
                self.retries += 1
                self.errors[event.error] += 1
            case RowFailed():
                self.failed[event.error] += 1
                self.errors[event.error] += 1
            case Snapshot():
                self.in_flight = event.in_flight
                self.images_done = event.images_done
                self.images_planned = event.images_planned
                self._planned_at_start = max(self._planned_at_start, event.images_planned)

    @property
    def ended(self) -> int:
        """Rows that this session has written or that failed for good in it."""
        return self.rows + self.failed.total()

    @property
    def done(self) -> int:
        """Rows that need no more work, from this session or earlier ones."""
        return self.before + self.ended

    @property
    def seconds(self) -> float:
        """Time since the models were loaded."""
        return time.monotonic() - self._started

    @property
    def rows_per_minute(self) -> float:
        """Rows written per minute since the models were loaded."""
        return 60 * self.rows / max(self.seconds, 1e-9)

    @property
    def images_per_minute(self) -> float:
        """Images scored per minute since the models were loaded."""
        return 60 * self.images_done / max(self.seconds, 1e-9)

    @property
    def images_left(self) -> float:
        """Estimate of the images still to make.

        Rows in flight count the most they can still take. A row that waits counts what a row has taken so far on
        average. In that average a row in flight counts the most it can take: the first rows to end are the short
        ones, and alone they would promise too much.
        """
        at_most = self.images_planned - self.images_done
        admitted = self.ended + self.in_flight
        if not admitted:
            return at_most
        waiting = self.total - self.before - admitted
        saved = self._planned_at_start - self.images_planned  # by rows that ended early
        return max(0.0, at_most - waiting * saved / admitted)

    @property
    def eta_seconds(self) -> float | None:
        """Estimated time until every row is done, at the pace in images so far; ``None`` before the first batch."""
        if not self.images_done:
            return None
        return self.images_left * self.seconds / self.images_done

    @property
    def scores(self) -> tuple[float, float] | None:
        """Means of the written rows' first and kept scores; ``None`` before the first row."""
        if not self.rows:
            return None
        return self._sum_of_first_scores / self.rows, self._sum_of_kept_scores / self.rows
