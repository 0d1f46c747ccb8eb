"""The driver: moves rows between generators, scorers and the writer until every row of the corpus is written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from noisesmith.actors.generator import GeneratorActor
from noisesmith.actors.placement import actor_options, writer_options
from noisesmith.actors.pool import Pool, Slot
from noisesmith.actors.retry import Ceiling, Fault, backoff, cause_of, fault_of
from noisesmith.actors.row_task import Call, Flight, Waiting, take
from noisesmith.actors.scorer import ScorerActor
from noisesmith.actors.writer import WriterActor
from noisesmith.pipeline.config import GeneratorConfig, RunConfig, ScorerConfig
from noisesmith.pipeline.errors import RunError, reason
from noisesmith.pipeline.prompts import Corpus
from noisesmith.pipeline.records import Failure, Provenance, Row
from noisesmith.pipeline.search.row import RowSearch
from noisesmith.pipeline.sinks import RunState
from noisesmith.pipeline.telemetry.events import (
    BatchHalved,
    RowFailed,
    RowRetried,
    RowWritten,
    RunStarted,
    ShardCommitted,
    Snapshot,
)
from noisesmith.pipeline.telemetry.log import Telemetry

MAX_DEATHS = 3  # actors in a row that die with one row alone before that row is given up
MAX_LOSSES = 10  # searches of one row that are begun anew for lost objects


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``complete``, or stopped with rows left."""

    complete: bool
    provenance: Provenance


def _actor(actor_class: Any, side: GeneratorConfig | ScorerConfig, config: RunConfig) -> Any:
    return actor_class.options(**actor_options(side)).remote(config)


def _writer(arguments: tuple[Any, ...]) -> Any:
    writer_class: Any = WriterActor
    return writer_class.options(**writer_options()).remote(*arguments)


class Driver:
    """Two dynamic batch queues over actors that keep no row state."""

    def __init__(self, config: RunConfig, corpus: Corpus, state: RunState, telemetry: Telemetry) -> None:
        self._config, self._corpus, self._state = config, corpus, state
        self._telemetry, self._emit = telemetry, telemetry.emit
        sides = (config.generators, config.scorers)
        self._pools = {
            "generate": Pool(
                "generator", config.generators.count, partial(_actor, GeneratorActor, sides[0], config), self._emit
            ),
            "score": Pool("scorer", config.scorers.count, partial(_actor, ScorerActor, sides[1], config), self._emit),
        }
        self._batch = {"generate": config.generators.batch_size, "score": config.scorers.batch_size}
        self._batch["judge"] = max(1, config.scorers.batch_size // 2)
        self._queues: dict[str, deque[Flight]] = {kind: deque() for kind in ("generate", "score", "judge", "write")}
        self._calls: dict[Any, Call] = {}
        self._waiting = Waiting()
        self._ceiling = Ceiling(config.faults.failed_share)
        self._in_flight = 0
        self._limit = config.rows_in_flight or (
            sum(side.count * side.batch_size for side in sides) + max(side.batch_size for side in sides)
        )
        self._draining = False
        self._deadline: float | None = None

    def drain(self, seconds: float | None = None) -> None:
        """Admit no more rows; those in flight end, or are left once ``seconds`` are over."""
        self._draining = True
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def run(self) -> Outcome:
        """Work until the corpus is done, or, once told to ``drain``, until the rows in flight are.

        Needs a connected cluster (``noisesmith.actors.placement.cluster``).

        Raises:
            UserError: a model cannot be loaded.
            RunError: actors keep dying or find no place, too many rows fail, or the writer cannot write.
            KeyboardInterrupt: told to drain before the models were loaded.
        """
        for pool in self._pools.values():
            pool.start()
        self._await_models("generate", "score")
        self._generator, scorer = self._pools["generate"].info, self._pools["score"].info
        provenance = Provenance(
            optimizer=self._config.optimizer.method,
            generator=self._generator.id,
            generator_revision=self._generator.revision,
            scorer=scorer.id,
            scorer_revision=scorer.revision,
            readout=self._config.scorers.readout,
        )
        run_dir = self._state.run_dir.absolute()
        arguments = (run_dir, self._corpus.extra_schema, self._corpus.size, provenance)
        self._pools["write"] = Pool("writer", 1, partial(_writer, arguments), self._emit)
        self._pools["write"].start()
        self._started = time.monotonic()
        self._emit(RunStarted(self._corpus.size, len(self._state.done)))
        exhausted = self._loop(self._corpus.rows(skip=self._state.done))
        self._finish_writing()
        self._emit(self._snapshot())
        return Outcome(exhausted, provenance)

    def close(self) -> None:
        """End the actors."""
        for pool in self._pools.values():
            pool.stop()

    def _await_models(self, *kinds: str) -> None:
        while any(self._pools[kind].info is None for kind in kinds):
            if self._draining:
                raise KeyboardInterrupt
            self._wait()

    def _loop(self, rows: Iterator[Row]) -> bool:
        """Returns whether every row was admitted and finished."""
        exhausted = False
        while True:
            while not self._draining and not exhausted and self._in_flight < self._limit:
                row = next(rows, None)
                if row is None:
                    exhausted = True
                    break
                self._in_flight += 1
                self._queues["generate"].append(Flight(RowSearch(row, self._config)))
            for kind, flight in self._waiting.due():
                self._queues[kind].append(flight)
            self._dispatch()
            self._emit(self._snapshot())
            if not self._in_flight:
                return exhausted
            self._wait()
            if self._deadline is not None and time.monotonic() > self._deadline:
                exhausted = False
                self._leave_unfinished()

    def _finish_writing(self) -> None:
        pool = self._pools["write"]
        slot = pool.slots[0]
        self._state.check_lock()
        while True:
            try:
                self._committed(ray.get(slot.handle.finish.remote()))
                return
            except RayError as error:
                if not pool.failed(slot, slot.handle, error):
                    raise RunError(f"the writer cannot write ({reason(cause_of(error))})") from error

    def _wait(self) -> None:
        """Until a call or an actor answers, or for half a second."""
        loading = {reference: (pool, slot) for pool in self._pools.values() for reference, slot in pool.loading.items()}
        references = [*self._calls, *loading]
        if not references:
            time.sleep(0.05)  # every row in flight waits for its next attempt
            return
        for reference in ray.wait(references, timeout=0.5)[0]:
            if reference in loading:
                pool, slot = loading[reference]
                pool.loaded(slot)
            else:
                self._complete(reference)
        for pool in self._pools.values():
            if (seconds := pool.missing_seconds()) > self._config.faults.placement_seconds:
                raise RunError(f"no {pool.name} has found a place and loaded its model for {seconds:.0f} seconds")

    def _leave_unfinished(self) -> None:
        """Forget the rows in flight but those that are being written: a resume makes them again."""
        self._waiting.clear()
        for kind in ("generate", "score", "judge"):
            self._queues[kind].clear()
        self._calls = {reference: call for reference, call in self._calls.items() if call.kind == "write"}
        self._in_flight = len(self._queues["write"]) + len(self._calls)

    def _dispatch(self) -> None:
        """Give batches to free actors: to an idle one whatever waits, behind a batch at work only a full one.

        A suspect row goes to an idle actor alone, and nothing waits behind it: if the actor dies, it was that row.
        """
        for kind in ("write", "judge", "score", "generate"):
            pool, queue = self._pool(kind), self._queues[kind]
            size = self._batch.get(kind, 1)
            while queue and (slot := pool.free()) is not None:
                if kind != "write" and slot.queued and (queue[0].suspect or len(queue) < size):
                    break
                flights = take(queue, size, kind)
                slot.alone = kind != "write" and flights[0].suspect
                self._send(kind, slot, flights)

    def _pool(self, kind: str) -> Pool:
        """The actors that take a step; scorers hold the judges too."""
        return self._pools["score" if kind == "judge" else kind]

    def _send(self, kind: str, slot: Slot, flights: list[Flight]) -> None:
        actor = slot.handle
        if kind == "generate":
            tasks = [flight.search.generate_task() for flight in flights]
            starts = [start for flight in flights if (start := flight.search.start()) is not None]
            arrays = [array for start in starts for array in (start.state, start.gradient)]
            returns = actor.generate.options(num_returns=1 + 2 * len(tasks)).remote(tasks, *arrays)
        elif kind == "score":
            score_tasks = [flight.search.score_task() for flight in flights]
            returns = actor.score.options(num_returns=1 + 2 * len(score_tasks)).remote(
                score_tasks, *(flight.latents for flight in flights)
            )
        elif kind == "judge":
            prompts = [flight.search.row.prompt for flight in flights for _ in range(2)]
            returns = [actor.judge.remote(prompts, *(png for f in flights for png in f.search.pictures()))]
        else:
            self._state.check_lock()
            returns = [self._write(actor, flights[0])]
        slot.queued += 1
        self._calls[returns[0]] = Call(kind, flights, slot, actor, returns[1:])

    def _write(self, actor: Any, flight: Flight) -> Any:
        if flight.given_up:
            return actor.fail.remote(Failure(flight.search.row, tuple(flight.attempts)))
        spec = self._generator.spec
        result = flight.search.result(spec.shape, (spec.width, spec.height), flight.judges)
        first, kept = flight.search.pictures()
        state = flight.search.states[flight.search.kept] if self._config.stores_noise else None
        return actor.put.remote(result, kept, first if self._config.output.image_initial else None, state)

    def _complete(self, reference: Any) -> None:
        call = self._calls.pop(reference)
        pool = self._pool(call.kind)
        try:
            report = ray.get(reference)
        except RayError as error:
            pool.failed(call.slot, call.handle, error)
            self._failed(call, error)
            return
        pool.done(call.slot, call.handle, getattr(report, "seconds", 0.0))
        for flight in call.flights:
            flight.clear()
        getattr(self, f"_after_{call.kind}")(call, report)

    def _after_generate(self, call: Call, report: Any) -> None:
        count = len(call.flights)
        for place, flight in enumerate(call.flights):
            flight.search.generated(report.records[place], call.returns[place])
            flight.latents = call.returns[count + place]
            self._queues["score"].append(flight)

    def _after_score(self, call: Call, report: Any) -> None:
        count = len(call.flights)
        for place, flight in enumerate(call.flights):
            search = flight.search
            search.scored(report.scores[place], call.returns[place], call.returns[count + place])
            flight.latents = None
            if search.finished:
                self._end_search(flight)
            else:
                self._queues["generate"].append(flight)

    def _end_search(self, flight: Flight) -> None:
        self._queues["judge" if self._config.judges else "write"].append(flight)

    def _after_judge(self, call: Call, report: Any) -> None:
        for place, flight in enumerate(call.flights):
            flight.judges = {name: (scores[2 * place], scores[2 * place + 1]) for name, scores in report.scores.items()}
            self._queues["write"].append(flight)

    def _after_write(self, call: Call, shards: list[int]) -> None:
        (flight,) = call.flights
        self._in_flight -= 1
        self._committed(shards)
        search, seconds = flight.search, round(time.monotonic() - flight.admitted, 3)
        if not flight.given_up:
            scores = (search.scores[0], search.scores[search.kept])
            self._emit(RowWritten(search.row.id, len(flight.attempts) + 1, search.rounds, *scores, seconds))
            return
        last = flight.last_attempt
        self._emit(RowFailed(search.row.id, **last, seconds=seconds))
        self._ceiling.failed(last["error"], last["message"])
        self._ceiling.check(self._telemetry.tally.rows)

    def _committed(self, shards: list[int]) -> None:
        for shard in shards:
            self._emit(ShardCommitted(shard))

    def _failed(self, call: Call, error: RayError) -> None:
        """Put the rows of a failed call back where they can go on, or give them up."""
        fault = fault_of(error)
        if call.kind == "write" and fault is not Fault.OBJECT:
            if fault is not Fault.ACTOR:
                raise RunError(f"the writer cannot write ({reason(cause_of(error))})") from error
            self._queues["write"].extendleft(call.flights)
            return
        if fault is Fault.MEMORY and len(call.flights) > 1:
            self._batch[call.kind] = min(self._batch[call.kind], len(call.flights) // 2)
            self._emit(BatchHalved(call.kind, call.slot.where, self._batch[call.kind]))
            self._queues[call.kind].extendleft(reversed(call.flights))
            return
        for flight in call.flights:
            flight.blame(call, error)
            if len(call.flights) == 1 or fault is Fault.OBJECT:
                self._retry(call.kind, flight, fault, error)
            else:  # whose fault it was shows when each is alone
                self._queues[call.kind].append(flight)
            if not flight.given_up:
                self._emit(RowRetried(flight.search.row.id, **flight.last_attempt))

    def _retry(self, kind: str, flight: Flight, fault: Fault, error: RayError) -> None:
        """Decide what becomes of a row whose call failed with it alone, or whose objects are lost."""
        faults = self._config.faults
        if fault is Fault.OBJECT:
            flight.losses += 1
            flight.restart()
            kind = "generate"
        elif fault is Fault.ACTOR:
            flight.deaths += 1
        else:
            flight.failures += 1
        if flight.failures <= faults.retries and flight.deaths < MAX_DEATHS and flight.losses < MAX_LOSSES:
            waits = fault in (Fault.ROW, Fault.MEMORY)
            self._waiting.add(backoff(faults.backoff_seconds, flight.failures) if waits else 0.0, kind, flight)
        elif isinstance(cause_of(error), ArithmeticError) and flight.search.kept_picture is not None:
            flight.search.abandon()  # this round's image is of no use, the best before it is
            flight.clear()
            self._end_search(flight)
        else:
            flight.given_up = True
            self._queues["write"].append(flight)

    def _snapshot(self) -> Snapshot:
        queues = {kind: len(queue) for kind, queue in self._queues.items()} | {"retry": len(self._waiting)}
        return Snapshot(self._in_flight, queues, self._busy("generate"), self._busy("score"))

    def _busy(self, kind: str) -> float:
        """The share of their time that one side's actors have worked."""
        wall = time.monotonic() - self._started
        return min(1.0, self._pools[kind].seconds / (wall * self._pools[kind].count)) if wall > 0 else 0.0
