"""The driver: moves rows between generators, scorers and the writer until every row of the corpus is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ray.exceptions import RayError

from noisesmith.actors.assembly import Assembly
from noisesmith.actors.inbox import Answer
from noisesmith.actors.pool import AnyPool
from noisesmith.actors.retry import FailureLimit
from noisesmith.actors.row_task import RowTask
from noisesmith.actors.stage import AnyCall
from noisesmith.actors.stages import GeneratorWorker, ScorerWorker
from noisesmith.actors.surroundings import Surroundings
from noisesmith.actors.workers import Workers
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError
from noisesmith.pipeline.records import CheckedCorpus, Provenance, Row
from noisesmith.pipeline.search.row import RowSearch
from noisesmith.pipeline.sinks import RunState
from noisesmith.pipeline.telemetry.events import RowFailed, RowWritten, RunStarted, ShardCommitted, Snapshot
from noisesmith.pipeline.telemetry.log import Telemetry

POLL_SECONDS = 0.5  # the longest wait for an answer; signals and deadlines are looked at in between
SNAPSHOT_SECONDS = 0.25  # between two snapshots


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``complete``, or stopped with rows left."""

    complete: bool
    provenance: Provenance


class Driver:
    """Admits rows, sends batches to workers that keep no row state, and takes their answers.

    It handles references and scalars only; arrays stay in the object store (see ``packs``).
    """

    def __init__(
        self,
        config: RunConfig,
        corpus: CheckedCorpus,
        state: RunState,
        telemetry: Telemetry,
        workers: Workers,
        around: Surroundings | None = None,
    ) -> None:
        self._config = config
        self._corpus = corpus
        self._state = state
        self._telemetry = telemetry
        self._emit = telemetry.emit
        self._around = around or Surroundings(telemetry.emit)
        self._assembly = Assembly(config, workers, self._around, self._row_ended, self._shard_committed)
        self._balancer = self._assembly.balancer(self._around)
        self._limit = config.rows_in_flight or self._assembly.rows_in_flight(len(corpus.resolutions))
        self._rows: set[RowTask] = set()  # in flight
        self._calls: set[AnyCall] = set()
        self._failures = FailureLimit(config.faults.failed_share)
        self._written_before = state.done.written  # by earlier sessions
        self._admitted = 0
        self._images_of_ended_rows = 0
        self._exhausted = False
        self._draining = False
        self._deadline: float | None = None
        self._next_snapshot = 0.0
        self._loaded_before: dict[str, float] = {}  # worker-seconds before the first row, by pool

    def run(self) -> Outcome:
        """Work until the corpus is done, or, after :meth:`drain`, until the rows in flight are.

        Needs a connected cluster (``noisesmith.actors.placement.cluster``).

        Raises:
            UserError: a model cannot be loaded.
            RunError: workers keep dying or cannot be placed, too many rows fail, or the writer cannot write.
            KeyboardInterrupt: the run was to drain before the models were loaded.
        """
        try:
            return self._work()
        finally:  # the directory's lock is released next, so no thread may write any more
            self._around.threads.shutdown(wait=True, cancel_futures=True)

    def _work(self) -> Outcome:
        self._load_models()
        provenance = self._assembly.start_writing(self._state)
        for pool in self._assembly.pools:
            self._loaded_before[pool.name] = pool.loaded_seconds()
        self._emit(RunStarted(self._corpus.size, len(self._state.done)))
        rows = self._corpus.rows(skip=self._state.done)
        while True:
            self._admit(rows)
            self._dispatch()
            self._report()
            if not self._rows:
                break
            self._wait()
            self._balance()
            self._leave_at_deadline()
        self._finish_writing()
        self._emit(self._snapshot())
        return Outcome(self._exhausted, provenance)

    def drain(self, seconds: float | None = None) -> None:
        """Admit no more rows. Those in flight end, or are left after ``seconds``. A signal handler may call this."""
        self._draining = True
        self._deadline = None if seconds is None else self._around.clock() + seconds

    def close(self, keep: Callable[[GeneratorWorker | ScorerWorker], None] | None = None) -> None:
        """End the workers, or leave those that hold models to ``keep``."""
        self._assembly.stop(keep)

    def _load_models(self) -> None:
        self._assembly.start_models()
        while not self._assembly.models_loaded:
            if self._draining:
                raise KeyboardInterrupt
            self._wait()

    def _admit(self, rows: Iterator[Row]) -> None:
        while not self._draining and not self._exhausted and len(self._rows) < self._limit:
            row = next(rows, None)
            if row is None:
                self._exhausted = True
                return
            task = RowTask(RowSearch(row, self._config), self._around.clock())
            self._admitted += 1
            self._rows.add(task)
            self._assembly.generate.queue.add(task)

    def _dispatch(self) -> None:
        for stage, row in self._assembly.waiting.due():
            stage.queue.add(row)
        for stage in self._assembly.stages:
            for call in stage.dispatch():
                self._calls.add(call)
                self._around.inbox.expect(call.report, partial(self._answered, call))
        self._assembly.commits.dispatch()

    def _wait(self) -> None:
        """Take the answers that have arrived, after waiting for one if there is none."""
        self._around.inbox.handle(self._assembly.waiting.seconds_left(POLL_SECONDS))
        for pool in self._assembly.pools:
            pool.start_due()
            seconds = pool.missing_seconds()
            if seconds > self._config.faults.placement_seconds:
                raise RunError(f"no {pool.name} has found a place and loaded its model for {seconds:.0f} seconds")

    def _balance(self) -> None:
        """Let workers move between the sides, where the config asks for it."""
        if self._balancer is None:
            return
        rows_left = not self._draining and self._not_admitted() > 0
        if self._balancer.step(rows_left) and self._config.rows_in_flight is None:
            self._limit = self._assembly.rows_in_flight(len(self._corpus.resolutions))

    def _answered(self, call: AnyCall, answer: Answer) -> None:
        if call not in self._calls:  # its rows were left at the deadline
            return
        self._calls.remove(call)
        try:
            report = answer.result()
        except RayError as error:
            self._assembly.recovery.failed(call, error)
            return
        call.stage.succeeded(call, report)

    def _row_ended(self, row: RowTask) -> None:
        """Account for a row that is durable, as a result or as a dead letter."""
        search = row.search
        self._rows.remove(row)
        self._images_of_ended_rows += len(search.scores)
        seconds = round(self._around.clock() - row.admitted, 3)
        if not row.failed:
            first, kept = search.scores[0], search.scores[search.kept]
            self._emit(RowWritten(search.row.id, len(row.attempts) + 1, search.rounds, first, kept, seconds))
            return
        self._emit(RowFailed(**row.last_failure(), seconds=seconds))
        last = row.attempts[-1]
        self._failures.count(last.error, last.message)
        self._failures.check(self._written_before + self._telemetry.tally.rows)

    def _leave_at_deadline(self) -> None:
        """Forget the rows in flight except those that are being written: a resumed run makes them again."""
        if not self._is_late():
            return
        write = self._assembly.write
        self._assembly.drop_waiting()
        self._assembly.commits.leave()
        self._calls = {call for call in self._calls if call.stage is write}
        self._rows = {*write.queue.rows(), *self._assembly.commits.buried}
        for call in self._calls:
            self._rows.update(call.rows)
        self._exhausted = False

    def _is_late(self) -> bool:
        return self._deadline is not None and self._around.clock() > self._deadline

    def _finish_writing(self) -> None:
        """Let the writers commit what is left."""
        while not self._assembly.commits.idle:
            self._dispatch()
            self._wait()
            if self._is_late() and self._assembly.commits.leave():
                self._exhausted = False
        self._assembly.commits.clean_up()

    def _shard_committed(self, shard: int) -> None:
        self._emit(ShardCommitted(shard))

    def _report(self) -> None:
        if self._around.clock() >= self._next_snapshot:
            self._next_snapshot = self._around.clock() + SNAPSHOT_SECONDS
            self._emit(self._snapshot())

    def _snapshot(self) -> Snapshot:
        done = self._images_of_ended_rows + sum(len(row.search.scores) for row in self._rows)
        most, _ = self._config.most_per_row()
        return Snapshot(
            in_flight=len(self._rows),
            queues=self._assembly.queue_lengths(),
            busy_generators=self._busy_share([self._assembly.generators]),
            busy_scorers=self._busy_share(self._assembly.scorers),
            images_done=done,
            images_planned=self._images_of_ended_rows + most * (len(self._rows) + self._not_admitted()),
        )

    def _not_admitted(self) -> int:
        return self._corpus.size - len(self._state.done) - self._admitted

    def _busy_share(self, pools: Sequence[AnyPool]) -> float:
        """The share of their time that the loaded workers of one side have worked."""
        seconds = sum(pool.loaded_seconds() - self._loaded_before[pool.name] for pool in pools)
        return min(1.0, sum(pool.seconds for pool in pools) / seconds) if seconds > 0 else 0.0
