"""The stages that a row passes: generate and score once per image, then judge and write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from ray.exceptions import RayError

from noisesmith.actors.generator import GenerateOrder, GenerateReport, GeneratorInfo
from noisesmith.actors.packs import Arguments, Pack, Reference, Stored, encode
from noisesmith.actors.pool import Method, Pool, Slot, Worker
from noisesmith.actors.retry import Fault, cause_of
from noisesmith.actors.row_task import MAX_READ, RowQueue, RowTask
from noisesmith.actors.scorer import JudgeOrder, JudgeReport, ScoreOrder, ScoreReport, ScorerInfo
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, reason
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.records import Failure
from noisesmith.pipeline.sinks import RunState
from noisesmith.pipeline.telemetry.events import BatchHalved, Event


class PackingMethod(Protocol):
    """A method of a remote worker that returns a report, then packs."""

    def remote(self, *arguments: object) -> list[Reference]: ...


class GeneratorWorker(Worker, Protocol):
    @property
    def generate(self) -> PackingMethod: ...


class ScorerWorker(Worker, Protocol):
    @property
    def score(self) -> PackingMethod: ...

    @property
    def judge(self) -> Method: ...


class WriterWorker(Worker, Protocol):
    @property
    def put(self) -> Method: ...

    @property
    def fail(self) -> Method: ...

    @property
    def finish(self) -> Method: ...


W = TypeVar("W", bound=Worker)
Info = TypeVar("Info")
Report = TypeVar("Report")


@dataclass(frozen=True, eq=False)
class Call(Generic[W, Info, Report]):
    """One batch at a worker: the reference of the report that it will return, and those of its packs."""

    stage: Stage[W, Info, Report]
    rows: list[RowTask]
    slot: Slot[W]
    worker: W
    report: Reference
    packs: list[Reference]


class Stage(ABC, Generic[W, Info, Report]):
    """A queue of rows and the pool of workers that take batches from it.

    Args:
        batch_size: rows per call; halved when a batch does not fit into a worker's memory.
        largest_batch: of all stages, which bounds the number of rows in a pack.
    """

    name: ClassVar[str]
    arrays_per_row: ClassVar[int] = 1  # that a call reads

    def __init__(self, pool: Pool[W, Info], batch_size: int, largest_batch: int, emit: Callable[[Event], None]) -> None:
        self.pool = pool
        self.batch_size = batch_size
        most_read = MAX_READ * self.arrays_per_row * largest_batch
        self.queue = RowQueue(self.lane_of, self.packs_of, most_read)
        self._emit = emit

    def dispatch(self) -> Iterator[Call[W, Info, Report]]:
        """Send queued rows to workers with room.

        An idle worker takes any batch. A busy one is given only a full batch ahead of time: it would otherwise hold
        rows that another worker could take sooner. A suspect row goes to an idle worker alone, and nothing waits behind
        it: if the worker dies, it was that row.
        """
        while self.queue and (slot := self.pool.free()) is not None:
            rows = self.queue.take(self.batch_size, full=slot.queued > 0)
            if not rows:
                return
            report, *packs = self.submit(slot.worker, rows)
            self.pool.sent(slot, alone=rows[0].suspect)
            yield Call(self, rows, slot, slot.worker, report, packs)

    def succeeded(self, call: Call[W, Info, Report], report: Report) -> None:
        """Take the answer to a call, and hand its rows on."""
        self.pool.done(call.slot, call.worker, self.seconds_of(report))
        for row in call.rows:
            row.clear()
        self.receive(call.rows, report, call.packs)

    def take_back(self, call: Call[W, Info, Report], fault: Fault, error: RayError) -> bool:
        """Queue the rows of a failed call again where the failure says nothing about any of them."""
        rows = call.rows
        if fault not in (Fault.MEMORY, Fault.KILLED) or len(rows) == 1:
            return False
        self.batch_size = min(self.batch_size, len(rows) // 2)
        self._emit(BatchHalved(self.name, call.slot.where, self.batch_size))
        self.queue.put_back(rows)
        return True

    def lane_of(self, row: RowTask) -> Hashable:
        """Rows share a batch only where this is equal."""
        return None

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        """The packs in which the arrays lie that the row's call reads."""
        return ()

    @abstractmethod
    def submit(self, worker: W, rows: list[RowTask]) -> list[Reference]:
        """Call the worker; returns the reference of its report, then those of its packs."""

    @abstractmethod
    def receive(self, rows: list[RowTask], report: Report, packs: list[Reference]) -> None:
        """Record what a call made of its rows, and hand each to its next stage."""

    @abstractmethod
    def seconds_of(self, report: Report) -> float:
        """How long the worker worked."""


AnyStage = Stage[Any, Any, Any]
AnyCall = Call[Any, Any, Any]


class GenerateStage(Stage[GeneratorWorker, GeneratorInfo, GenerateReport]):
    """Moves the noise of rows at any rounds, and denoises it. The rows of a batch share their sampler steps."""

    name = "generate"
    arrays_per_row = 2  # optimizer state and gradient
    score: AnyStage

    def lane_of(self, row: RowTask) -> Hashable:
        return row.search.next_image().steps

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        start = row.search.start()
        if start is None:
            return ()
        if start.log_gradient is None:
            return (start.state.pack,)
        return (start.state.pack, start.log_gradient.pack)

    def submit(self, worker: GeneratorWorker, rows: list[RowTask]) -> list[Reference]:
        arguments = Arguments()
        orders = []
        for row in rows:
            order = GenerateOrder(row.search.generate_task())
            start = row.search.start()
            if start is not None:
                order.state = arguments.locate(start.state)
                if start.log_gradient is not None:
                    order.log_gradient = arguments.locate(start.log_gradient)
            orders.append(order)
        return worker.generate.remote(encode(orders), *arguments.references)

    def receive(self, rows: list[RowTask], report: GenerateReport, packs: list[Reference]) -> None:
        pack = Pack(packs[0], len(rows))
        for index, row in enumerate(rows):
            row.search.generated(report.records[index], Stored(pack, report.states[index]))
            row.latents = Stored(pack, report.latents[index])
            self.score.queue.add(row)

    def seconds_of(self, report: GenerateReport) -> float:
        return report.seconds


class ScoreStage(Stage[ScorerWorker, ScorerInfo, ScoreReport]):
    """Decodes, scores and differentiates z_0, and keeps the image where it is the row's best."""

    name = "score"
    generate: AnyStage
    finished: AnyStage  # takes rows whose search has ended

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        return () if row.latents is None else (row.latents.pack,)

    def submit(self, worker: ScorerWorker, rows: list[RowTask]) -> list[Reference]:
        arguments = Arguments()
        orders = []
        for row in rows:
            if row.latents is None:
                raise RuntimeError(f"row {row.search.row.id} is to be scored without z_0")
            orders.append(ScoreOrder(row.search.score_task(), arguments.locate(row.latents)))
        return worker.score.remote(encode(orders), *arguments.references)

    def receive(self, rows: list[RowTask], report: ScoreReport, packs: list[Reference]) -> None:
        gradients = Pack(packs[0], len(rows))
        pictures = Pack(packs[1], len(rows))
        for index, row in enumerate(rows):
            gradient = None if report.gradients is None else Stored(gradients, report.gradients[index])
            picture = report.pictures[index]
            row.search.scored(report.scores[index], gradient, None if picture is None else Stored(pictures, picture))
            row.latents = None
            next_stage = self.finished if row.search.finished else self.generate
            next_stage.queue.add(row)

    def seconds_of(self, report: ScoreReport) -> float:
        return report.seconds


class JudgeStage(Stage[ScorerWorker, ScorerInfo, JudgeReport]):
    """Lets the judges look at the first and the kept image of finished rows; the scorers hold the judges."""

    name = "judge"
    arrays_per_row = 2
    write: AnyStage

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        first, kept = row.search.pictures()
        return (first.pack, kept.pack)

    def submit(self, worker: ScorerWorker, rows: list[RowTask]) -> list[Reference]:
        arguments = Arguments()
        orders = []
        for row in rows:
            for picture in row.search.pictures():
                orders.append(JudgeOrder(row.search.row.prompt, arguments.locate(picture)))
        return [worker.judge.remote(encode(orders), *arguments.references)]

    def receive(self, rows: list[RowTask], report: JudgeReport, packs: list[Reference]) -> None:
        for index, row in enumerate(rows):
            for name, scores in report.scores.items():
                row.judges[name] = (scores[2 * index], scores[2 * index + 1])
            self.write.queue.add(row)

    def seconds_of(self, report: JudgeReport) -> float:
        return report.seconds


class WriteStage(Stage[WriterWorker, None, list[int]]):
    """Makes finished rows and dead letters durable, one per call. The report lists the shards that it completed."""

    name = "write"
    on_written: Callable[[RowTask, list[int]], None]

    def open(self, config: RunConfig, state: RunState, spec: LatentSpec) -> None:
        """Take what is known once the models are loaded."""
        self._config = config
        self._state = state
        self._spec = spec

    def submit(self, worker: WriterWorker, rows: list[RowTask]) -> list[Reference]:
        self._state.check_lock()
        (row,) = rows
        search = row.search
        if row.failed:
            attempts = tuple(asdict(attempt) for attempt in row.attempts)
            return [worker.fail.remote(Failure(search.row, attempts))]
        spec = self._spec
        result = search.result(spec.shape, (spec.width, spec.height), row.judges)
        first, kept = search.pictures()
        arguments = Arguments()
        image = arguments.locate(kept)
        initial = arguments.locate(first) if self._config.output.image_initial else None
        state = arguments.locate(search.states[search.kept]) if self._config.stores_noise else None
        return [worker.put.remote(result, image, initial, state, *arguments.references)]

    def receive(self, rows: list[RowTask], report: list[int], packs: list[Reference]) -> None:
        self.on_written(rows[0], report)

    def take_back(self, call: Call[WriterWorker, None, list[int]], fault: Fault, error: RayError) -> bool:
        if fault is Fault.OBJECT:
            return False
        if not fault.is_death:
            raise RunError(f"the writer cannot write ({reason(cause_of(error))})") from error
        self.queue.put_back(call.rows)
        return True

    def seconds_of(self, report: list[int]) -> float:
        return 0.0
