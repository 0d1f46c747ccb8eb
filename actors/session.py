"""Whole runs, one after another, in one cluster."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from noisesmith.actors.driver import Driver, Outcome
from noisesmith.actors.metrics import RayMetrics
from noisesmith.actors.placement import cluster
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, full_traceback, reason
from noisesmith.pipeline.prompts import Corpus
from noisesmith.pipeline.report import Summary, write_report
from noisesmith.pipeline.sinks import RunState
from noisesmith.pipeline.telemetry.console import ConsoleProgress
from noisesmith.pipeline.telemetry.events import ModelsLoading, RunEnded
from noisesmith.pipeline.telemetry.log import Telemetry


class Session:
    """Drives runs in a connected cluster. The first signal drains the run at work, a second one interrupts it."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._stopped_by: signal.Signals | None = None
        self._driver: Driver | None = None
        self._grace = 0.0

    @property
    def exit_code(self) -> int:
        """What a command that was stopped by a signal ends with."""
        return 128 + (self._stopped_by or signal.SIGINT)

    def drive(
        self, config: RunConfig, corpus: Corpus, state: RunState, progress: ConsoleProgress
    ) -> tuple[Outcome, Summary]:
        """Take an opened run to its end, or as far as a signal lets it, and write its report.

        Raises:
            UserError: a model cannot be loaded.
            RunError: the run cannot go on; see :meth:`run`.
            KeyboardInterrupt: a second signal, or one before the models were loaded.
        """
        actors = {"generators": config.generators.count, "scorers": config.scorers.count}
        listeners = (progress.emit, RayMetrics(config.name).emit)
        telemetry = Telemetry(state.run_dir, actors, *listeners, tally=progress.tally)
        telemetry.emit(ModelsLoading())
        self._driver, self._grace = Driver(config, corpus, state, telemetry), config.faults.grace_seconds
        self._drain()
        try:
            outcome = self._driver.run()
        except BaseException as error:
            with suppress(RunError):  # who has lost the directory writes nothing more there
                state.check_lock()
                telemetry.emit(_ended(error))
            raise
        finally:
            progress.close()
        self._driver.close()
        state.check_lock()
        telemetry.emit(RunEnded("finished" if outcome.complete else "stopped"))
        return outcome, write_report(state.run_dir, config, outcome.provenance, telemetry.operations())

    def stop(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        if self._stopped_by is not None:
            raise KeyboardInterrupt
        self._stopped_by = signal.Signals(number)
        self._drain()
        within = f" for at most {self._grace:g} seconds" if number == signal.SIGTERM else ""
        self._note(f"stopping: finishing the rows in flight{within} (again to stop at once)")

    def _drain(self) -> None:
        """Ctrl-C lets the rows in flight end; SIGTERM comes from a scheduler that soon kills."""
        if self._driver is not None and self._stopped_by is not None:
            self._driver.drain(self._grace if self._stopped_by is signal.SIGTERM else None)


def _ended(error: BaseException) -> RunEnded:
    """The event of a session that an exception has ended."""
    if isinstance(error, KeyboardInterrupt):
        return RunEnded("stopped")
    return RunEnded("failed", reason(error), traceback=full_traceback(error))


@contextmanager
def session(config: RunConfig, note: Callable[[str], None]) -> Iterator[Session]:
    """A cluster as ``config`` asks, in which runs of its placement can be driven; SIGINT and SIGTERM stop them.

    Raises:
        UserError: the cluster cannot be reached, or has too few GPUs or cores.
        KeyboardInterrupt: the block was interrupted; its argument is the exit code.
    """
    runs = Session(note)
    with cluster(config):
        for number in (signal.SIGINT, signal.SIGTERM):  # Ray sets its own handlers when it starts
            signal.signal(number, runs.stop)
        try:
            yield runs
        except KeyboardInterrupt:
            raise KeyboardInterrupt(runs.exit_code) from None
