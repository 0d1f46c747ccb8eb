"""Drives whole runs in one cluster, one after another."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from ray.exceptions import RayError

from noisesmith.actors.driver import Driver, Outcome
from noisesmith.actors.metrics import RayMetrics
from noisesmith.actors.placement import CheckResources, cluster
from noisesmith.actors.retry import cluster_failure
from noisesmith.actors.workers import LoadedActors, RayWorkers
from noisesmith.pipeline.acceptance import accept_again
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, UserError, full_traceback, reason
from noisesmith.pipeline.records import CheckedCorpus
from noisesmith.pipeline.report import Summary, write_report
from noisesmith.pipeline.sinks import RunState, first_config
from noisesmith.pipeline.speed.placement import place
from noisesmith.pipeline.telemetry.console import ConsoleProgress
from noisesmith.pipeline.telemetry.events import ModelsLoading, RunEnded
from noisesmith.pipeline.telemetry.log import Telemetry


class Session:
    """Drives runs in a connected cluster.

    The first signal lets the current run finish its rows in flight, a second one interrupts it.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._stopped_by: signal.Signals | None = None
        self._driver: Driver | None = None
        self._grace = 0.0
        self._loaded = LoadedActors()

    @property
    def stopped(self) -> bool:
        """Whether a signal has asked to stop; the run may have come to its end all the same."""
        return self._stopped_by is not None

    @property
    def exit_code(self) -> int:
        """Exit code of a command that a signal has stopped."""
        return 128 + (self._stopped_by or signal.SIGINT)

    def drive(
        self,
        config: RunConfig,
        corpus: CheckedCorpus,
        state: RunState,
        progress: ConsoleProgress,
        *,
        another_follows: bool = False,
    ) -> tuple[Outcome, Summary]:
        """Take an opened run to its end, or as far as a signal lets it, and write its report.

        Args:
            another_follows: generators and scorers keep their models loaded for the next run, which uses them where it
                needs the same ones in the same place.

        Raises:
            UserError: a model cannot be loaded.
            RunError: the run cannot go on; see :meth:`run`.
            KeyboardInterrupt: a second signal, or one before the models were loaded.
        """
        config = place(config, self._note)
        actors = {"generators": config.generators.count, "scorers": sum(placed.count for placed, *_ in config.groups)}
        actors["writers"] = config.writers.count
        listeners = (progress.emit, RayMetrics(config.name).emit)
        telemetry = Telemetry(state.run_dir, actors, *listeners, tally=progress.tally)
        telemetry.emit(ModelsLoading())
        with _recorded(telemetry, state):
            workers = RayWorkers(config, corpus, state, self._loaded)
            driver = Driver(config, corpus, state, telemetry, workers)
            self._driver = driver
            self._grace = config.faults.grace_seconds
            self._drain()
            try:
                outcome = driver.run()
            except RayError as error:  # of no call: the driver handles those
                raise cluster_failure(error) from error
            finally:
                progress.close()
            driver.close(workers.keep if another_follows else None)
            state.check_lock()
            telemetry.emit(RunEnded("finished" if outcome.complete else "stopped"))
            described = first_config(config)
            accept_again(state.run_dir, described, state.check_lock, self._note)
            summary = write_report(state.run_dir, described, outcome.provenance, telemetry.operations())
        return outcome, summary

    def stop(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        if self._stopped_by is not None:
            raise KeyboardInterrupt
        self._stopped_by = signal.Signals(number)
        self._drain()
        within = f" for at most {self._grace:g} seconds" if number == signal.SIGTERM else ""
        self._note(f"stopping: finishing the rows in flight{within} (again to stop at once)")

    def _drain(self) -> None:
        """Finish the rows in flight: without a limit after Ctrl-C, soon after SIGTERM, which a kill may follow."""
        if self._driver is not None and self._stopped_by is not None:
            self._driver.drain(self._grace if self._stopped_by is signal.SIGTERM else None)


@contextmanager
def _recorded(telemetry: Telemetry, state: RunState) -> Iterator[None]:
    """Record in the run directory how an exception ended the block: with its traceback, unless a user stopped it.

    Nothing is written where another session has taken the directory over.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            ended = RunEnded("stopped")
        elif isinstance(error, UserError | RunError):
            ended = RunEnded("failed", reason(error), traceback=full_traceback(error))
        else:  # a bug of ours: its message alone, such as that of a KeyError, would say little
            message = f"{type(error).__name__}: {reason(error)}"
            ended = RunEnded("failed", message, traceback=full_traceback(error))
        with suppress(RunError):
            state.check_lock()
            telemetry.emit(ended)
        raise


def _signals() -> tuple[signal.Signals, ...]:
    """The signals that stop a session: none outside the main thread, where Python sets no handlers."""
    is_main = threading.current_thread() is threading.main_thread()
    return (signal.SIGINT, signal.SIGTERM) if is_main else ()


@contextmanager
def _signal_handlers_restored() -> Iterator[None]:
    """Give SIGINT and SIGTERM back to the caller after the block: Ray and a session set handlers of their own."""
    before = {number: signal.getsignal(number) for number in _signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def session(config: RunConfig, note: Callable[[str], None], check: CheckResources | None = None) -> Iterator[Session]:
    """Start or join the cluster of ``config``, for runs on the same cluster; SIGINT and SIGTERM stop them.

    Afterwards the two signals are handled as before.

    Args:
        check: see :func:`cluster`; needed where the runs place other actors than those of ``config``.

    Raises:
        UserError: the cluster cannot be reached, or has too few GPUs or cores, or no folder for its files.
        RunError: it does not start.
        KeyboardInterrupt: the block was interrupted; its argument is the exit code.
    """
    runs = Session(note)
    with _signal_handlers_restored(), cluster(config, note, check):
        for number in _signals():  # Ray sets its own handlers when it starts
            signal.signal(number, runs.stop)
        try:
            yield runs
        except KeyboardInterrupt:
            raise KeyboardInterrupt(runs.exit_code) from None
