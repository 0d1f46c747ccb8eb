"""The driver: moves rows between generators, scorers and the writer until every row of the corpus is written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.generator import GeneratorActor, GeneratorInfo
from actors.placement import WRITER_OPTIONS, actor_options
from actors.pool import Pool, Slot, loaded
from actors.scorer import ScorerActor, ScorerInfo
from actors.writer import WriterActor
from pipeline.config import GeneratorConfig, RunConfig, ScorerConfig
from pipeline.errors import RunError, reason
from pipeline.noise import NoiseKey
from pipeline.optimizers import build_optimizer
from pipeline.progress import Progress, Snapshot
from pipeline.prompts import Corpus
from pipeline.records import Failure, Provenance, Row
from pipeline.search import GenerateTask, RowSearch, ScoreTask
from pipeline.sinks import RunState


@dataclass
class Flight:
    """A row in flight: its search, the references to what its next call needs, and what has gone wrong so far.

    ``memories`` and ``gradients`` are kept by image, as long as the search may need them.
    """

    search: RowSearch
    memories: dict[int, Any] = field(default_factory=dict)
    gradients: dict[int, Any] = field(default_factory=dict)
    latents: Any = None
    first_png: Any = None
    kept_png: Any = None
    judges: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    attempts: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """One actor call in flight: which step it is of which rows, where, and the references of what it returns."""

    kind: str
    flights: list[Flight]
    slot: Slot
    handle: Any
    returns: list[Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``complete``, or stopped with rows left."""

    complete: bool
    provenance: Provenance
    operations: dict[str, Any]


def _actor(actor_class: Any, side: GeneratorConfig | ScorerConfig, config: RunConfig) -> Any:
    return actor_class.options(**actor_options(side)).remote(config)


def _take(queue: deque[Flight], size: int, kind: str) -> list[Flight]:
    """The next batch: the first in the queue and those behind it with as many sampler steps; alone after a failure."""
    first = queue.popleft()
    if first.attempts:
        return [first]
    batch, steps = [first], first.search.begin().steps if kind == "generate" else None
    for flight in list(queue):
        if len(batch) == size:
            break
        if not flight.attempts and (steps is None or flight.search.begin().steps == steps):
            queue.remove(flight)
            batch.append(flight)
    return batch


def _writer(arguments: tuple[Any, ...]) -> Any:
    writer_class: Any = WriterActor
    return writer_class.options(**WRITER_OPTIONS).remote(*arguments)


class Driver:
    """Two dynamic batch queues over actors that keep no row state."""

    def __init__(self, config: RunConfig, corpus: Corpus, state: RunState, progress: Progress) -> None:
        self._config, self._corpus, self._state, self._progress = config, corpus, state, progress
        self._optimizer = build_optimizer(config.optimizer)
        sides = (config.generators, config.scorers)
        self._pools = {
            "generate": Pool("generator", config.generators.count, partial(_actor, GeneratorActor, sides[0], config)),
            "score": Pool("scorer", config.scorers.count, partial(_actor, ScorerActor, sides[1], config)),
        }
        self._batch = {"generate": config.generators.batch_size, "score": config.scorers.batch_size}
        self._batch["judge"] = max(1, config.scorers.batch_size // 2)
        self._queues: dict[str, deque[Flight]] = {kind: deque() for kind in ("generate", "score", "judge", "write")}
        self._calls: dict[Any, Call] = {}
        self._in_flight = 0
        self._limit = config.rows_in_flight or (
            sum(side.count * side.batch_size for side in sides) + max(side.batch_size for side in sides)
        )
        self.draining = False

    def run(self) -> Outcome:
        """Work until the corpus is done, or, once ``draining`` is set, until the rows in flight are.

        Needs a connected cluster (``actors.placement.cluster``).

        Raises:
            UserError: a model cannot be loaded.
            RunError: actors keep dying.
        """
        answers = {kind: pool.start() for kind, pool in self._pools.items()}
        self._generator: GeneratorInfo = loaded(answers["generate"])[0]
        scorer: ScorerInfo = loaded(answers["score"])[0]
        provenance = Provenance(
            optimizer=self._config.optimizer.method,
            generator=self._generator.id,
            generator_revision=self._generator.revision,
            scorer=scorer.id,
            scorer_revision=scorer.revision,
            readout=self._config.scorers.readout,
        )
        run_dir = self._state.run_dir.absolute()
        arguments = (run_dir, self._config, self._corpus.extra_schema, self._corpus.size, provenance)
        self._pools["write"] = Pool("writer", 1, partial(_writer, arguments))
        loaded(self._pools["write"].start())
        self._started = time.monotonic()
        self._progress.begin(self._corpus.size, len(self._state.done))
        rows = (row for row in self._corpus.rows() if row.index not in self._state.done)
        exhausted = self._loop(rows)
        ray.get(self._pools["write"].slots[0].handle.finish.remote())
        return Outcome(exhausted, provenance, self._operations())

    def close(self) -> None:
        """End the actors."""
        for pool in self._pools.values():
            pool.stop()

    def _loop(self, rows: Iterator[Row]) -> bool:
        """Returns whether every row was admitted and finished."""
        exhausted = False
        while True:
            while not self.draining and not exhausted and self._in_flight < self._limit:
                row = next(rows, None)
                if row is None:
                    exhausted = True
                    break
                self._in_flight += 1
                self._queues["generate"].append(Flight(RowSearch(row, self._config)))
            self._dispatch()
            self._progress.update(self._snapshot())
            if not self._calls:
                return exhausted
            for reference in ray.wait(list(self._calls), timeout=0.5)[0]:
                self._complete(reference)

    def _dispatch(self) -> None:
        """Give batches to free actors: to an idle one whatever waits, behind a batch at work only a full one."""
        for kind in ("write", "judge", "score", "generate"):
            pool, queue = self._pools["score" if kind == "judge" else kind], self._queues[kind]
            size = self._batch.get(kind, 1)
            while queue and (slot := pool.free()) is not None:
                if kind != "write" and slot.queued and len(queue) < size:
                    break
                self._send(kind, slot, _take(queue, size, kind))

    def _send(self, kind: str, slot: Slot, flights: list[Flight]) -> None:
        actor = slot.handle
        if kind == "generate":
            tasks = [self._generate_task(flight) for flight in flights]
            arrays = [array for flight in flights for array in self._start_of(flight)]
            returns = actor.generate.options(num_returns=1 + 2 * len(tasks)).remote(tasks, *arrays)
        elif kind == "score":
            score_tasks = [self._score_task(flight) for flight in flights]
            returns = actor.score.options(num_returns=1 + 2 * len(score_tasks)).remote(
                score_tasks, *(flight.latents for flight in flights)
            )
        elif kind == "judge":
            prompts = [flight.search.row.prompt for flight in flights for _ in range(2)]
            returns = [actor.judge.remote(prompts, *(png for f in flights for png in (f.first_png, f.kept_png)))]
        else:
            returns = [self._write(actor, flights[0])]
        slot.queued += 1
        self._calls[returns[0]] = Call(kind, flights, slot, actor, returns[1:])

    def _generate_task(self, flight: Flight) -> GenerateTask:
        search = flight.search
        row, turn = search.row, search.begin()
        key = NoiseKey(self._config.seed, row.id, turn.round)
        score = None if turn.parent is None else search.scores[turn.parent]
        return GenerateTask(row.prompt, row.subjects, key, turn.steps, score, turn.again)

    def _start_of(self, flight: Flight) -> tuple[Any, ...]:
        """The references to what a row's turn starts from: memory and gradient of its parent, nothing in round 0."""
        parent = flight.search.begin().parent
        return () if parent is None else (flight.memories[parent], flight.gradients.get(parent))

    def _score_task(self, flight: Flight) -> ScoreTask:
        search = flight.search
        last = search.rounds >= self._config.optimizer.rounds
        return ScoreTask(search.row.prompt, search.keep_above, self._optimizer.needs_gradient and not last)

    def _write(self, actor: Any, flight: Flight) -> Any:
        if len(flight.attempts) > self._config.retries:
            return actor.fail.remote(Failure(flight.search.row, tuple(flight.attempts)))
        spec = self._generator.spec
        result = flight.search.result(spec.shape, (spec.width, spec.height), flight.judges)
        first = flight.first_png if self._config.output.image_initial else None
        memory = flight.memories[flight.search.kept] if self._config.stores_noise else None
        return actor.put.remote(result, flight.kept_png, first, memory)

    def _complete(self, reference: Any) -> None:
        call = self._calls.pop(reference)
        pool = self._pools["score" if call.kind == "judge" else call.kind]
        try:
            report = ray.get(reference)
        except RayError as error:
            if call.kind == "write" and isinstance(error, RayTaskError):
                raise RunError(f"the writer cannot write ({reason(error.cause or error)})") from error
            pool.failed(call.slot, call.handle, error)
            for flight in call.flights:
                self._retry(call.kind, flight, error)
            return
        pool.done(call.slot, call.handle, getattr(report, "seconds", 0.0))
        getattr(self, f"_after_{call.kind}")(call, report)

    def _after_generate(self, call: Call, report: Any) -> None:
        count = len(call.flights)
        for place, flight in enumerate(call.flights):
            flight.memories[flight.search.pending] = call.returns[place]
            flight.search.made(report.steps[place])
            flight.latents = call.returns[count + place]
            self._queues["score"].append(flight)

    def _after_score(self, call: Call, report: Any) -> None:
        count = len(call.flights)
        for place, flight in enumerate(call.flights):
            search = flight.search
            flight.gradients[search.pending] = call.returns[place]
            if search.scored(report.scores[place]):
                flight.kept_png = call.returns[count + place]
                flight.first_png = flight.first_png or flight.kept_png
            flight.latents, needed = None, search.needed()
            flight.memories = {image: ref for image, ref in flight.memories.items() if image in needed}
            flight.gradients = {image: ref for image, ref in flight.gradients.items() if image == search.base}
            following = "generate" if not search.finished else "judge" if self._config.judges else "write"
            self._queues[following].append(flight)

    def _after_judge(self, call: Call, report: Any) -> None:
        for place, flight in enumerate(call.flights):
            flight.judges = {name: (scores[2 * place], scores[2 * place + 1]) for name, scores in report.scores.items()}
            self._queues["write"].append(flight)

    def _after_write(self, call: Call, shards: list[int]) -> None:
        (flight,) = call.flights
        self._in_flight -= 1
        failed = len(flight.attempts) > self._config.retries
        self._progress.row_done(flight.search, failed)

    def _retry(self, kind: str, flight: Flight, error: Exception) -> None:
        """Put a row whose call failed back where it can go on, alone in its batch; past the limit, give it up."""
        if kind == "write" and isinstance(error, RayActorError):
            self._queues["write"].append(flight)
            return
        cause = error.cause if isinstance(error, RayTaskError) and error.cause else error
        flight.attempts.append({"error": type(cause).__name__, "message": reason(cause), "where": kind})
        if len(flight.attempts) > self._config.retries:
            self._queues["write"].append(flight)
        elif isinstance(error, RayActorError | RayTaskError):
            self._queues[kind].append(flight)
        else:  # what the call needed is lost: start the row again
            self._queues["generate"].append(
                Flight(RowSearch(flight.search.row, self._config), attempts=flight.attempts)
            )

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._in_flight, self._busy("generate"), self._busy("score"))

    def _busy(self, kind: str) -> float:
        """The share of their time that one side's actors have worked."""
        wall = time.monotonic() - self._started
        return min(1.0, self._pools[kind].seconds / (wall * self._pools[kind].count)) if wall > 0 else 0.0

    def _operations(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._started
        return {
            "seconds": round(seconds, 3),
            "rows_written": self._progress.rows,
            "rows_failed": self._progress.failed,
            "rounds": self._progress.rounds,
            "rows_per_minute": round(60 * self._progress.rows / seconds, 3) if seconds else 0.0,
            "busy_generators": round(self._busy("generate"), 4),
            "busy_scorers": round(self._busy("score"), 4),
            "generators": self._config.generators.count,
            "scorers": self._config.scorers.count,
        }
