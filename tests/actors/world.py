"""A world for the driver without Ray: workers, references and a clock that the test controls."""

from __future__ import annotations

import heapq
import math
import pickle
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

from noisesmith.actors.driver import Driver, Outcome
from noisesmith.actors.generator import GenerateReport, GeneratorInfo
from noisesmith.actors.inbox import Inbox
from noisesmith.actors.packs import Position
from noisesmith.actors.pool import Loaded
from noisesmith.actors.scorer import RenderReport, ScoreReport, ScorerInfo
from noisesmith.actors.surroundings import Surroundings
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.records import Failure, NoiseStats, Row
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.tasks import ImageRecord
from noisesmith.pipeline.sinks import Committer, DoneRows, Prepared, Staged
from noisesmith.pipeline.sinks.header import VERSION, Header
from noisesmith.pipeline.sinks.layout import ShardLayout
from noisesmith.pipeline.sinks.manifest import Entry
from noisesmith.pipeline.telemetry.events import (
    Event,
)
from noisesmith.pipeline.telemetry.tally import Tally

CALL_SECONDS = 1.0
POSITION = Position(0, (1,))


class Reference:
    """A reference whose answer the test gives."""

    def __init__(self) -> None:
        self.answer: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.answer


@dataclass
class Sent:
    """One call as a worker received it."""

    worker: FakeWorker
    stage: str
    prompts: list[str]
    packs: int
    reference: Reference
    time: float


@dataclass(eq=False)
class FakeWorker:
    """A worker that answers a call per second, or as ``world.outcome`` decides."""

    world: World
    kind: str
    name: str
    group: int = 0
    killed: bool = False
    busy: deque[Sent] = field(default_factory=deque)

    def __getattr__(self, stage: str) -> Any:
        return RemoteMethod(self, stage)


@dataclass
class RemoteMethod:
    worker: FakeWorker
    stage: str

    def remote(self, *arguments: Any) -> Any:
        return self.worker.world.receive(self.worker, self.stage, arguments)


class World(Inbox):
    """The workers, the clock, and the driver's inbox: waiting lets time pass until the next call is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sent: list[Sent] = []
        self.workers: list[FakeWorker] = []
        self.events: list[Event] = []
        self.outcome: Callable[[Sent], RayError | None] = lambda sent: None
        self.score: Callable[[str, int], float] = lambda prompt, image: 0.5
        self.shift: dict[int, float] = {}  # added to log s, by group of scorers
        self.pace: dict[int, int] = {}  # seconds per answer, by group of scorers
        self.at: list[tuple[float, Callable[[], None]]] = []
        self.tally = Tally()
        self._images: dict[tuple[int, str], int] = {}

    # what the driver takes for its telemetry, its state and its workers

    run_dir = Path("/nowhere")
    done: DoneRows
    header: Header

    def check_lock(self) -> None:
        self.locks_checked = True

    def emit(self, event: Event) -> None:
        self.tally.count(event)
        self.events.append(event)

    def generator(self) -> Any:
        return self._worker("generator")

    def scorer(self, group: int) -> Any:
        return self._worker("scorer", group)

    def writer(self) -> Any:
        return self._worker("writer")

    def committer(self) -> Committer:
        return PaperCommitter(self.run_dir, self.header, self.done.copy())

    def _worker(self, kind: str, group: int = 0) -> FakeWorker:
        worker = FakeWorker(self, kind, f"{kind}-{len(self.workers)}", group)
        self.workers.append(worker)
        return worker

    def kill(self, worker: Any) -> None:
        worker.killed = True
        worker.busy.clear()

    # the workers' side

    def receive(self, worker: FakeWorker, stage: str, arguments: tuple[Any, ...]) -> Any:
        reference = Reference()
        if stage in ("load", "prepare"):
            self._answer_at_once(Sent(worker, stage, [], 0, reference, self.now), arguments)
            return reference
        prompts = _prompts(stage, arguments)
        sent = Sent(worker, stage, prompts, len(arguments) - 1, reference, self.now)
        self.sent.append(sent)
        worker.busy.append(sent)
        packs = {"generate": 1, "score": 1, "render": 1}.get(stage, 0)
        return [reference, *(Reference() for _ in range(packs))] if packs else reference

    def _answer_at_once(self, sent: Sent, arguments: tuple[Any, ...] = ()) -> None:
        answers = {
            "generator": GeneratorInfo("fake", "0", LatentSpec((4, 8, 8), 64, 64, (4, 8, 8))),
            "scorer": ScorerInfo(("fake",), ("0",)),
            "writer": None,
        }
        error = self.outcome(sent)
        if error is not None:
            sent.reference.answer.set_exception(error)
        elif sent.stage == "load":
            sent.reference.answer.set_result(Loaded(answers[sent.worker.kind], sent.worker.name))
        else:
            shard, rows = arguments
            sent.reference.answer.set_result(Prepared(shard, tuple(rows), "", ()))

    def handle(self, seconds: float) -> None:
        """Let time pass until every worker has answered its first call, or until ``seconds`` are over."""
        working = [worker for worker in self.workers if worker.busy]
        self.now += CALL_SECONDS if working else seconds + 1e-6
        for when, action in self.at:
            if when <= self.now:
                action()
        for worker in working:
            if self.now // CALL_SECONDS % self.pace.get(worker.group, 1) == 0:
                self._answer(worker)
        super().handle(0.0)

    def _answer(self, worker: FakeWorker) -> None:
        sent = worker.busy.popleft()
        error = self.outcome(sent)
        if error is None:
            sent.reference.answer.set_result(self._report(sent))
            return
        sent.reference.answer.set_exception(error)
        if isinstance(error, ActorDiedError | OutOfMemoryError):
            for waiting in worker.busy:
                waiting.reference.answer.set_exception(error)
            worker.busy.clear()

    def _report(self, sent: Sent) -> Any:
        rows = len(sent.prompts)
        positions = [POSITION] * rows
        if sent.stage == "generate":
            record = ImageRecord(0.5, 0, NoiseStats(0.0, 1.0, 1.0, 0.0), "0" * 64, rows, 2.0, (4, 8, 8))
            return GenerateReport(CALL_SECONDS, [record] * rows, positions, positions)
        if sent.stage == "score":
            opinions = []
            for prompt in sent.prompts:
                image = self._images.get((sent.worker.group, prompt), 0)
                self._images[sent.worker.group, prompt] = image + 1
                log_score = math.log(self.score(prompt, image)) + self.shift.get(sent.worker.group, 0.0)
                opinions.append(Opinion((log_score,), POSITION))
            return ScoreReport(CALL_SECONDS, opinions)
        if sent.stage == "render":
            return RenderReport(CALL_SECONDS, [[POSITION, POSITION]] * rows, [{}] * rows)
        indices = tuple(int(prompt[1:]) for prompt in sent.prompts)  # see Prompts
        return Staged(self.header.layout.shard_of(indices[0]), indices, "file")

    # what tests ask

    def batches(self, stage: str) -> list[int]:
        return [len(sent.prompts) for sent in self.sent if sent.stage == stage]

    def at_start(self, stage: str) -> list[Sent]:
        """Calls of the moment at which the first rows were admitted."""
        return [sent for sent in self.sent if sent.stage == stage and sent.time == self.sent[0].time]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class TimedWorld(World):
    """A world whose generate and score calls take different times; all others take none."""

    def __init__(self, seconds: float, spread: float, seed: int) -> None:
        super().__init__()
        self._seconds = seconds
        self._spread = spread
        self._random = random.Random(seed)
        self._ends: list[tuple[float, int, FakeWorker]] = []
        self._started = 0  # orders calls that end at the same moment

    def receive(self, worker: FakeWorker, stage: str, arguments: tuple[Any, ...]) -> Any:
        was_idle = not worker.busy
        reference = super().receive(worker, stage, arguments)
        if was_idle and worker.busy:
            self._begin(worker)
        return reference

    def handle(self, seconds: float) -> None:
        """Let time pass until the next call ends."""
        if not self._ends:
            self.now += seconds + 1e-6 if self._arrived.empty() else 0.0
        else:
            self.now, _, worker = heapq.heappop(self._ends)
            self._answer(worker)
            if worker.busy:
                self._begin(worker)
        Inbox.handle(self, 0.0)

    def _begin(self, worker: FakeWorker) -> None:
        takes = self._random.uniform(1 - self._spread, 1 + self._spread) * self._seconds
        if worker.busy[0].stage not in ("generate", "score"):
            takes = 0.0
        self._started += 1
        heapq.heappush(self._ends, (self.now + takes, self._started, worker))


def _prompts(stage: str, arguments: tuple[Any, ...]) -> list[str]:
    if stage == "put":
        _, orders = pickle.loads(arguments[0])
        return [order.result.row.prompt for order in orders]
    if stage == "render":
        return [order.prompt for order in pickle.loads(arguments[0])]
    return [order.task.prompt for order in pickle.loads(arguments[0])]


class AtOnce(Executor):
    """Threads that have done their work at once."""

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*arguments, **options))
        except (OSError, UserError) as error:
            done.set_exception(error)
        return done


class PaperCommitter(Committer):
    """Knows what is done, and writes nothing."""

    def bury(self, failure: Failure) -> None:
        return

    def commit(self, prepared: Prepared) -> None:
        self.done.commit(Entry(prepared.shard, len(prepared.rows), (), "", ()))

    def clean_up(self) -> None:
        return


def header(settings: RunConfig, rows: int) -> Header:
    """The header of a new run of so many rows."""
    layout = ShardLayout(rows, settings.output.rows_per_shard)
    return Header(VERSION, {}, "", "", rows, layout.rows_per_shard, layout.shards, settings.output.formats, {})


class Prompts:
    """A corpus of rows that are their own numbers."""

    extra_schema = None
    resolutions: tuple[tuple[int, int], ...] = ()

    def __init__(self, size: int) -> None:
        self.size = size

    def rows(self, skip: Collection[int] = ()) -> Iterator[Row]:
        return (Row(index, f"{index:08d}", f"p{index}") for index in range(self.size) if index not in skip)


def config(**sections: Any) -> RunConfig:
    base: dict[str, Any] = {
        "corpus": {"source": "prompts.txt"},
        "generators": {"batch_size": 4, "steps": 2},
        "scorers": {"batch_size": 4},
        "optimizer": {"rounds": 1},
        "faults": {"backoff_seconds": 10.0, "retries": 2},
    }
    for name, section in sections.items():
        base[name] = base[name] | section if name in base and isinstance(section, dict) else section
    return RunConfig.model_validate(base)


def driver(
    world: World, rows: int, settings: RunConfig, prompts: Prompts | None = None, written: Collection[int] = ()
) -> Driver:
    """A driver of so many rows, of which earlier sessions have ``written`` some."""
    anything: Any = world
    corpus: Any = prompts or Prompts(rows)
    world.header = header(settings, rows)
    world.done = DoneRows(world.header.layout)
    for index in written:
        world.done.staged[world.header.layout.shard_of(index)][index] = "file"
    around = Surroundings(world.emit, world, clock=lambda: world.now, kill=world.kill, threads=AtOnce())
    return Driver(settings, corpus, anything, anything, anything, around)


def run(world: World, rows: int, **sections: Any) -> Outcome:
    return driver(world, rows, config(**sections)).run()


def raised(error: Exception) -> RayTaskError:
    return RayTaskError(
        "call", f"\x1b[36mTraceback\x1b[39m\n  File worker.py, line 7\n{error!r}", error, "call", 1, "::1"
    )
