"""What a run shows while it works: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from noisesmith.pipeline.telemetry.events import Event, RunStarted, Snapshot
from noisesmith.pipeline.telemetry.tally import Tally

PLAIN_INTERVAL = 10.0  # seconds between plain lines


class Progress:
    """The display of a session's ``tally``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: RichProgress | None = None
        self._task = TaskID(0)
        self.tally = Tally()
        self._printed = time.monotonic()

    def note(self, message: str) -> None:
        """One line about what happens now."""
        self._console.print(message, highlight=False)

    def tell(self, event: Event) -> None:
        self.tally.count(event)
        match event:
            case RunStarted():
                self._begin(event.rows, event.done)
            case Snapshot():
                self._update(event)

    def _begin(self, total: int, before: int) -> None:
        self._printed = time.monotonic()
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
            self._live.update(self._task, completed=self.tally.done, text=self._text(snapshot))
        elif now - self._printed >= PLAIN_INTERVAL:
            self._printed = now
            self.note(f"rows {self.tally.done}/{self.tally.total}  {self._text(snapshot)}")

    def end(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _text(self, snapshot: Snapshot) -> str:
        tally = self.tally
        parts = [f"rounds {tally.rounds}"]
        if tally.scores:
            parts += ["score {:.3f} → {:.3f}".format(*tally.scores), f"{tally.rows_per_minute:.1f} rows/min"]
        if (eta := tally.eta_seconds) is not None:
            parts.append(f"ETA {clock(eta)}")
        if tally.failed:
            parts.append(f"failed {tally.failed.total()}")
        parts.append(f"busy gen {snapshot.busy_generators:.0%} score {snapshot.busy_scorers:.0%}")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """``M:SS``, or ``H:MM:SS``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
