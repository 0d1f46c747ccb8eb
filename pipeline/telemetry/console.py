"""What a run shows while it works: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from noisesmith.pipeline.telemetry.events import Event, ModelsLoading, RunStarted, Snapshot, WorkersMoved
from noisesmith.pipeline.telemetry.tally import Tally

PLAIN_INTERVAL = 10.0  # seconds between two plain lines


def plain_console(stderr: bool = False) -> Console:
    """A console that prints text as it is: prompts and names are the user's, so nothing in them is markup."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


class ConsoleProgress:
    """Shows the progress of one session: a spinner while Ray starts and models load, then images and rows.

    Use it as a context manager, so that an error leaves no live line behind. ``tally`` holds the figures it shows;
    :class:`noisesmith.pipeline.telemetry.log.Telemetry` counts the events there before it passes them on.
    """

    def __init__(self, console: Console) -> None:
        self.tally = Tally()
        self._console = console
        self._loading: _LoadingDisplay | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last_line = time.monotonic()

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def note(self, message: str) -> None:
        """Print one line about what happens now."""
        self._console.print(message, highlight=False)

    def start(self, message: str) -> None:
        """Show ``message`` and the time that has passed, until the run has started."""
        self._end_loading()
        self._loading = _LoadingDisplay(self._console, message)

    def emit(self, event: Event) -> None:
        """Show one event."""
        match event:
            case ModelsLoading() if self._loading is None:
                self.start("loading models")
            case RunStarted():
                self._end_loading()
                self._start_bar()
            case WorkersMoved():
                self.note(str(event))
            case Snapshot():
                self._update(event)

    def close(self) -> None:
        """Remove the live line."""
        self._end_loading()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _end_loading(self) -> None:
        if self._loading is not None:
            self._loading.close()
            self._loading = None

    def _start_bar(self) -> None:
        self._last_line = time.monotonic()
        if self.tally.before:
            self.note(f"resuming: {self.tally.before} of {self.tally.total} rows are already done")
        if self._console.is_terminal:
            # A narrow terminal hides the bar first, then cuts the end of the text.
            self._bar = Progress(
                BarColumn(20),
                TimeElapsedColumn(),
                TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("images", total=None, text="")
            self._bar.start()

    def _update(self, snapshot: Snapshot) -> None:
        """Show the figures: at once on a terminal, every :data:`PLAIN_INTERVAL` seconds elsewhere."""
        if self._bar is not None:
            done = self.tally.images_done
            planned = self.tally.images_planned
            self._bar.update(self._task, completed=done, total=planned, text=self._text(snapshot))
        elif time.monotonic() - self._last_line >= PLAIN_INTERVAL:
            self._last_line = time.monotonic()
            self.note(self._text(snapshot))

    def _text(self, snapshot: Snapshot) -> str:
        """The figures, the most important first: a narrow terminal cuts the last ones off."""
        tally = self.tally
        parts = [f"images {tally.images_done:,}/{tally.images_planned:,}", f"rows {tally.done:,}/{tally.total:,}"]
        if tally.images_done:
            parts.append(f"{tally.images_per_minute:,.1f} images/min")
        if tally.eta_seconds is not None:
            parts.append(f"ETA {clock(tally.eta_seconds)}")
        if tally.failed:
            parts.append(f"failed {tally.failed.total()}")
        if tally.scores is not None:
            first, kept = tally.scores
            parts.append(f"score {first:.3f} → {kept:.3f}")
        parts.append(f"busy gen {snapshot.busy_generators:.0%} score {snapshot.busy_scorers:.0%}")
        return "  ".join(parts)


class _LoadingDisplay:
    """A message with the time that has passed: a spinner on a terminal, a plain line now and then elsewhere."""

    def __init__(self, console: Console, message: str) -> None:
        self._console = console
        self._message = message
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._spinner: Progress | None = None
        if console.is_terminal:
            columns = (SpinnerColumn(), TextColumn(message), TimeElapsedColumn())
            self._spinner = Progress(*columns, console=console, transient=True)
            self._spinner.add_task(message, total=None)
            self._spinner.start()
        else:
            console.print(message, highlight=False)
            # The main thread is busy: Ray's start blocks it.
            threading.Thread(target=self._print_lines, name="loading", daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        if self._spinner is not None:
            self._spinner.stop()

    def _print_lines(self) -> None:
        while not self._ended.wait(PLAIN_INTERVAL):
            seconds = time.monotonic() - self._started
            self._console.print(f"{self._message}, {seconds:.0f} s", highlight=False)


@contextmanager
def search_progress(
    total: int, console: Console | None = None, unit: str = "images"
) -> Iterator[Callable[[int], None]]:
    """Show a bar of images while a search works in this process, in a terminal or a notebook; else nothing.

    Args:
        total: the most that the search can make; fewer are made where rows end early.
        console: standard error by default, so that a program's own output stays clean.
        unit: what is counted.

    Yields:
        ``advance(count)``, which adds finished images to the bar.
    """
    console = Console(stderr=True) if console is None else console
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    is_shown = console.is_terminal or console.is_jupyter
    with Progress(*columns, console=console, transient=True, disable=not is_shown) as progress:
        task = progress.add_task(unit, total=total)

        def advance(count: int) -> None:
            progress.advance(task, count)

        yield advance


def clock(seconds: float) -> str:
    """A duration as ``M:SS``, or as ``H:MM:SS`` from one hour on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
