"""What a run shows while it works: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from pipeline.events import Event, RowFailed, RowWritten, RunStarted, Snapshot

PLAIN_INTERVAL = 10.0  # seconds between plain lines


class Progress:
    """Counts of this session (``rows``, ``failed``, ``rounds``) and their display."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: RichProgress | None = None
        self._task = TaskID(0)
        self.rows = self.failed = self.rounds = 0
        self._first = self._best = 0.0
        self._started = self._printed = time.monotonic()
        self._total = self._before = 0

    def note(self, message: str) -> None:
        """One line about what happens now."""
        self._console.print(message, highlight=False)

    def tell(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._begin(event.rows, event.done)
            case RowWritten():
                self.rows += 1
                self.rounds += event.rounds
                self._first += event.score_initial
                self._best += event.score
            case RowFailed():
                self.failed += 1
            case Snapshot():
                self._update(event)

    def _begin(self, total: int, before: int) -> None:
        self._total, self._before = total, before
        self._started = self._printed = time.monotonic()
        if before:
            self.note(f"resuming: {before} of {total} rows are already done")
        if self._console.is_terminal:
            self._live = RichProgress(
                TextColumn("rows"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
                console=self._console, transient=True,
            )  # fmt: skip
            self._task = self._live.add_task("rows", total=total, completed=before, text="")
            self._live.start()

    def _update(self, snapshot: Snapshot) -> None:
        """Show the state: at once on a terminal, every :data:`PLAIN_INTERVAL` seconds elsewhere."""
        now = time.monotonic()
        if self._live is not None:
            self._live.update(self._task, completed=self._before + self.rows + self.failed, text=self._text(snapshot))
        elif now - self._printed >= PLAIN_INTERVAL:
            self._printed = now
            self.note(f"rows {self._before + self.rows + self.failed}/{self._total}  {self._text(snapshot)}")

    def end(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _text(self, snapshot: Snapshot) -> str:
        minutes = (time.monotonic() - self._started) / 60
        parts = [f"rounds {self.rounds}"]
        if self.rows:
            rate = (self.rows + self.failed) / minutes
            left = self._total - self._before - self.rows - self.failed
            parts += [
                f"score {self._first / self.rows:.3f} → {self._best / self.rows:.3f}",
                f"{rate:.1f} rows/min",
                f"ETA {clock(60 * left / rate)}",
            ]
        if self.failed:
            parts.append(f"failed {self.failed}")
        parts.append(f"busy gen {snapshot.busy_generators:.0%} score {snapshot.busy_scorers:.0%}")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """``M:SS``, or ``H:MM:SS``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
