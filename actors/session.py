"""Whole runs, one after another, in one cluster."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from actors.driver import Driver, Outcome
from actors.placement import cluster
from pipeline.config import RunConfig
from pipeline.progress import Progress
from pipeline.prompts import Corpus
from pipeline.report import Summary, write_report
from pipeline.sinks import RunState


class Session:
    """Drives runs in a connected cluster. The first signal drains the run at work, a second one interrupts it."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._stopping = False
        self._driver: Driver | None = None

    def drive(self, config: RunConfig, corpus: Corpus, state: RunState, progress: Progress) -> tuple[Outcome, Summary]:
        """Take an opened run to its end, or as far as a signal lets it, and write its report.

        Raises:
            UserError: a model cannot be loaded.
            RunError: actors keep dying.
        """
        self._driver = Driver(config, corpus, state, progress)
        self._driver.draining = self._stopping
        try:
            outcome = self._driver.run()
        finally:
            progress.end()
        self._driver.close()
        return outcome, write_report(state.run_dir, config, outcome.provenance, outcome.operations)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = True
        if self._driver is not None:
            self._driver.draining = True
        self._note("stopping: finishing the rows in flight (again to stop at once)")


@contextmanager
def session(config: RunConfig, note: Callable[[str], None]) -> Iterator[Session]:
    """A cluster as ``config`` asks, in which runs of its placement can be driven; SIGINT and SIGTERM stop them.

    Raises:
        UserError: the cluster cannot be reached, or has too few GPUs or cores.
    """
    runs = Session(note)
    with cluster(config):
        for number in (signal.SIGINT, signal.SIGTERM):  # Ray sets its own handlers when it starts
            signal.signal(number, runs.stop)
        yield runs
