"""Every scheduling decision of the driver, in milliseconds: no Ray, no models, no time but a clock of our own."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, OutOfMemoryError, RayError, RayTaskError

from noisesmith.actors.driver import Driver, Outcome
from noisesmith.actors.generator import GenerateReport, GeneratorInfo
from noisesmith.actors.inbox import Inbox
from noisesmith.actors.packs import Pack, Position, Stored
from noisesmith.actors.pool import MAX_DEATHS as MAX_SLOT_DEATHS
from noisesmith.actors.pool import Loaded, Surroundings
from noisesmith.actors.row_task import MAX_READ, RowQueue, RowTask
from noisesmith.actors.scorer import ScoreReport, ScorerInfo
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import MemoryExhausted, RunError
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.records import NoiseStats, Row
from noisesmith.pipeline.search.row import RowSearch
from noisesmith.pipeline.search.tasks import ImageRecord
from noisesmith.pipeline.telemetry.events import (
    ActorReplaced,
    BatchHalved,
    Event,
    RowFailed,
    RowRetried,
    RowWritten,
    Snapshot,
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
        self.at: list[tuple[float, Callable[[], None]]] = []
        self.tally = Tally()
        self._images: dict[str, int] = {}

    # what the driver takes for its telemetry, its state and its workers

    run_dir = Path("/nowhere")
    done: range = range(0)

    def check_lock(self) -> None:
        self.locks_checked = True

    def emit(self, event: Event) -> None:
        self.tally.count(event)
        self.events.append(event)

    def generator(self) -> Any:
        return self._worker("generator")

    def scorer(self) -> Any:
        return self._worker("scorer")

    def writer(self, provenance: object) -> Any:
        return self._worker("writer")

    def _worker(self, kind: str) -> FakeWorker:
        worker = FakeWorker(self, kind, f"{kind}-{len(self.workers)}")
        self.workers.append(worker)
        return worker

    def kill(self, worker: Any) -> None:
        worker.killed = True
        worker.busy.clear()

    # the workers' side

    def receive(self, worker: FakeWorker, stage: str, arguments: tuple[Any, ...]) -> Any:
        reference = Reference()
        if stage == "load":
            answers = {
                "generator": GeneratorInfo("fake", "0", LatentSpec((4, 8, 8), 64, 64)),
                "scorer": ScorerInfo("fake", "0"),
                "writer": None,
            }
            reference.answer.set_result(Loaded(answers[worker.kind], worker.name))
            return reference
        if stage == "finish":
            reference.answer.set_result([])
            return reference
        prompts = _prompts(stage, arguments)
        sent = Sent(worker, stage, prompts, len(arguments) - 1, reference, self.now)
        self.sent.append(sent)
        worker.busy.append(sent)
        packs = {"generate": 1, "score": 2}.get(stage, 0)
        return [reference, *(Reference() for _ in range(packs))] if packs else reference

    def handle(self, seconds: float) -> None:
        """Let time pass until every worker has answered its first call, or until ``seconds`` are over."""
        working = [worker for worker in self.workers if worker.busy]
        self.now += CALL_SECONDS if working else seconds + 1e-6
        for when, action in self.at:
            if when <= self.now:
                action()
        for worker in working:
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
            record = ImageRecord(0.5, 0, NoiseStats(0.0, 1.0, 1.0, 0.0), "0" * 64, rows, 2.0)
            return GenerateReport(CALL_SECONDS, [record] * rows, positions, positions)
        if sent.stage == "score":
            scores = []
            for prompt in sent.prompts:
                image = self._images.get(prompt, 0)
                self._images[prompt] = image + 1
                scores.append(self.score(prompt, image))
            return ScoreReport(CALL_SECONDS, scores, positions, list(positions))
        return []

    # what tests ask

    def batches(self, stage: str) -> list[int]:
        return [len(sent.prompts) for sent in self.sent if sent.stage == stage]

    def at_start(self, stage: str) -> list[Sent]:
        """Calls of the moment at which the first rows were admitted."""
        return [sent for sent in self.sent if sent.stage == stage and sent.time == self.sent[0].time]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def _prompts(stage: str, arguments: tuple[Any, ...]) -> list[str]:
    if stage == "put":
        return [arguments[0].row.prompt]
    if stage == "fail":
        return [arguments[0].row.prompt]
    return [order.task.prompt for order in pickle.loads(arguments[0])]


class Prompts:
    """A corpus of rows that are their own numbers."""

    extra_schema = None

    def __init__(self, size: int) -> None:
        self.size = size

    def rows(self, skip: object = ()) -> Iterator[Row]:
        return (Row(index, f"{index:08d}", f"p{index}") for index in range(self.size))


def config(**sections: Any) -> RunConfig:
    base: dict[str, Any] = {
        "corpus": {"source": "prompts.txt"},
        "generators": {"batch_size": 4, "steps": 2},
        "scorers": {"batch_size": 4},
        "optimizer": {"rounds": 1},
        "faults": {"backoff_seconds": 10.0, "retries": 2},
    }
    for name, section in sections.items():
        base[name] = base[name] | section if name in base else section
    return RunConfig.model_validate(base)


def driver(world: World, rows: int, settings: RunConfig) -> Driver:
    anything: Any = world
    corpus: Any = Prompts(rows)
    around = Surroundings(world.emit, world, clock=lambda: world.now, kill=world.kill)
    return Driver(settings, corpus, anything, anything, anything, around)


def run(world: World, rows: int, **sections: Any) -> Outcome:
    return driver(world, rows, config(**sections)).run()


def raised(error: Exception) -> RayTaskError:
    return RayTaskError(
        "call", f"\x1b[36mTraceback\x1b[39m\n  File worker.py, line 7\n{error!r}", error, "call", 1, "::1"
    )


def test_batches_are_full_while_rows_wait_and_the_last_one_is_not() -> None:
    world = World()
    assert run(world, 10).complete
    first_round = world.batches("generate")[:3]
    assert sorted(first_round, reverse=True)[:2] == [4, 4]
    assert sum(world.batches("generate")) == sum(world.batches("score")) == 20
    assert len(world.of(RowWritten)) == 10


def test_an_idle_worker_takes_a_partial_batch_at_once() -> None:
    world = World()
    run(world, 3)
    assert [len(sent.prompts) for sent in world.at_start("generate")] == [3]
    assert world.batches("generate") == [3, 3]


def test_a_busy_worker_is_given_only_a_full_batch_ahead_of_time() -> None:
    world = World()
    run(world, 11, rows_in_flight=11)
    sent = world.at_start("generate")
    assert [len(one.prompts) for one in sent] == [4, 4], "the three rows left wait for an idle worker"
    assert len({id(one.worker) for one in sent}) == 1


def test_a_worker_holds_at_most_two_batches() -> None:
    world = World()
    run(world, 40, rows_in_flight=40)
    assert len(world.at_start("generate")) == 2


def test_rows_of_other_sampler_steps_are_batched_apart() -> None:
    world = World()
    preview = {"rounds": 2, "preview": {"steps": 1, "keep": 1}}
    assert run(world, 6, optimizer=preview, generators={"batch_size": 4, "steps": 4}).complete
    assert len(world.of(RowWritten)) == 6


def test_a_failed_batch_is_tried_row_by_row_and_only_the_row_at_fault_fails() -> None:
    world = World()
    world.outcome = lambda sent: raised(KeyError("no")) if "p2" in sent.prompts and sent.stage == "generate" else None
    assert run(world, 8).complete
    (letter,) = world.of(RowFailed)
    assert letter.row == "00000002"
    assert len(world.of(RowWritten)) == 7
    alone = [sent for sent in world.sent if sent.stage == "generate" and sent.prompts == ["p2"]]
    assert len(alone) == 3, "once, and two retries"
    assert all("p2" not in sent.prompts or len(sent.prompts) == 1 for sent in world.sent[1:])


def test_nothing_waits_behind_a_suspect_row() -> None:
    world = World()
    world.outcome = lambda sent: raised(KeyError("no")) if "p0" in sent.prompts and sent.stage == "generate" else None
    run(world, 40, rows_in_flight=40)
    alone = [sent for sent in world.sent if sent.stage == "generate" and sent.prompts == ["p0"]]
    for suspect in alone:
        same = [sent for sent in world.sent if sent.worker is suspect.worker and sent.time == suspect.time]
        assert same == [suspect]


def test_an_error_keeps_its_traceback_without_colours() -> None:
    world = World()
    world.outcome = lambda sent: raised(KeyError("no")) if sent.stage == "score" else None
    run(world, 1, faults={"retries": 0, "failed_share": 1.0})
    (letter,) = world.of(RowFailed)
    assert "File worker.py, line 7" in letter.traceback
    assert "\x1b" not in letter.traceback
    assert (letter.stage, letter.error, letter.message) == ("score", "KeyError", "'no'")


@pytest.mark.parametrize("death", [ActorDiedError(), OutOfMemoryError("the memory monitor killed it")])
def test_a_dead_worker_is_replaced_and_costs_one_call(death: RayError) -> None:
    world = World()
    deaths = iter([death])
    world.outcome = lambda sent: next(deaths, None) if sent.stage == "score" else None
    assert run(world, 8).complete
    (replaced,) = world.of(ActorReplaced)
    assert replaced.side == "scorer"
    assert len([worker for worker in world.workers if worker.kind == "scorer"]) == 2
    assert len(world.of(RowWritten)) == 8
    assert len(world.of(RowRetried)) <= 8, "the batch at work, and the one that waited behind it"


def test_a_row_that_kills_three_workers_fails_and_takes_no_other_with_it() -> None:
    world = World()
    world.outcome = lambda sent: ActorDiedError() if "p1" in sent.prompts and sent.stage == "generate" else None
    assert run(world, 6).complete
    (letter,) = world.of(RowFailed)
    assert letter.row == "00000001"
    alone = [sent for sent in world.sent if sent.stage == "generate" and sent.prompts == ["p1"]]
    assert len(alone) == 3
    assert len({id(sent.worker) for sent in alone}) == 3


def test_workers_that_keep_dying_stop_the_run() -> None:
    world = World()
    world.outcome = lambda sent: ActorDiedError() if sent.stage == "generate" else None
    with pytest.raises(RunError, match=f"a generator died {MAX_SLOT_DEATHS} times in a row"):
        run(world, 40)


def test_a_batch_that_exhausts_memory_is_halved_and_no_row_is_blamed() -> None:
    world = World()
    full = raised(MemoryExhausted("full"))
    world.outcome = lambda sent: full if sent.stage == "generate" and len(sent.prompts) > 1 else None
    assert run(world, 8).complete
    assert [event.batch_size for event in world.of(BatchHalved)][:2] == [2, 1] or world.of(BatchHalved)[
        0
    ].batch_size == 2
    assert world.of(BatchHalved)[-1].batch_size == 1
    assert world.of(RowRetried) == world.of(RowFailed) == []
    assert {event.stage for event in world.of(BatchHalved)} == {"generate"}


def test_retries_wait_longer_each_time() -> None:
    world = World()
    world.outcome = lambda sent: raised(ConnectionError("no")) if sent.stage == "generate" else None
    run(world, 1, faults={"failed_share": 1.0})
    first, second, third = [sent.time for sent in world.sent if sent.stage == "generate"]
    assert second - (first + CALL_SECONDS) == pytest.approx(10, abs=1)
    assert third - (second + CALL_SECONDS) == pytest.approx(20, abs=1)


def test_lost_objects_start_a_search_from_the_beginning() -> None:
    world = World()
    lost = iter([ObjectLostError("0" * 28, b"", "")])
    world.outcome = lambda sent: next(lost, None) if sent.stage == "score" and sent.time > 2 else None
    assert run(world, 2, optimizer={"rounds": 2}).complete
    assert [event.rounds for event in world.of(RowWritten)] == [2, 2]
    assert sum(world.batches("generate")) > 6
    assert world.of(Snapshot)[-1].images_done == world.of(Snapshot)[-1].images_planned == 6


def test_an_unusable_image_ends_the_search_with_the_best_before_it() -> None:
    world = World()
    world.outcome = lambda sent: (
        raised(FloatingPointError("nan")) if sent.stage == "score" and sent.time > 3 and "p0" in sent.prompts else None
    )
    assert run(world, 1, optimizer={"rounds": 5}, faults={"retries": 0}).complete
    (written,) = world.of(RowWritten)
    assert written.rounds < 5


def test_a_writer_that_dies_is_replaced_and_writes_every_row_once() -> None:
    world = World()
    deaths = iter([ActorDiedError()])
    world.outcome = lambda sent: next(deaths, None) if sent.stage == "put" else None
    assert run(world, 4).complete
    assert len(world.of(RowWritten)) == 4
    assert world.of(RowRetried) == []


def test_a_writer_that_cannot_write_stops_the_run() -> None:
    world = World()
    world.outcome = lambda sent: raised(OSError(28, "No space left")) if sent.stage == "put" else None
    with pytest.raises(RunError, match="the writer cannot write"):
        run(world, 4)


def test_too_many_failed_rows_stop_the_run() -> None:
    world = World()
    world.outcome = lambda sent: raised(ValueError("bad")) if sent.stage == "generate" else None
    with pytest.raises(RunError, match=r"20 of 20 rows failed.*ValueError"):
        run(world, 60, faults={"retries": 0, "failed_share": 0.5})


def test_draining_finishes_the_rows_in_flight_and_admits_no_more() -> None:
    world = World()
    drained = driver(world, 1000, config(rows_in_flight=8))
    world.at.append((2.0, drained.drain))
    outcome = drained.run()
    assert not outcome.complete
    assert len(world.of(RowWritten)) == 8


def test_draining_with_a_deadline_leaves_what_is_not_being_written() -> None:
    world = World()
    drained = driver(world, 1000, config(rows_in_flight=8, optimizer={"rounds": 10_000}))
    world.at.append((2.0, lambda: drained.drain(5.0)))
    world.at.append((2.5, world.at.clear))
    outcome = drained.run()
    assert not outcome.complete
    assert world.now < 20
    assert world.of(RowWritten) == []


def test_a_drain_before_the_models_are_loaded_interrupts() -> None:
    world = World()
    stopped = driver(world, 4, config())
    stopped.drain()
    with pytest.raises(KeyboardInterrupt):
        stopped.run()


def test_each_pack_is_passed_once_per_call() -> None:
    world = World()
    run(world, 4, optimizer={"rounds": 3})
    calls = [sent for sent in world.sent if sent.stage == "generate"]
    assert [sent.packs for sent in calls] == [0, 2, 2, 2], "one of the states, one of the gradients"
    assert {sent.packs for sent in world.sent if sent.stage == "score"} == {1}


def _row(index: int, *packs: Pack) -> RowTask:
    row = RowTask(RowSearch(Row(index, f"{index:08d}", f"p{index}"), config()), 0.0)
    row.latents = Stored(packs[0], POSITION) if packs else None
    return row


def _queue(most_read: int = 1000) -> RowQueue:
    return RowQueue(lambda row: None, lambda row: (row.latents.pack,) if row.latents else (), most_read)


def test_rows_of_the_same_pack_stay_together() -> None:
    packs = [Pack(Reference(), 4) for _ in range(3)]
    queue = _queue()
    for index in range(12):  # the packs' rows come in turns
        queue.add(_row(index, packs[index % 3]))
    for pack in packs:
        batch = queue.take(4, full=True)
        assert {row.latents.pack for row in batch if row.latents} == {pack}
    assert len(queue) == 0


def test_a_batch_reads_a_bounded_number_of_rows_and_no_row_is_left_behind() -> None:
    size = 16
    most_read = MAX_READ * size
    queue = _queue(most_read)
    for index in range(64):  # each row is alone in its pack by now
        queue.add(_row(index, Pack(Reference(), size)))
    taken = 0
    while batch := queue.take(size, full=False):
        read = sum(pack.rows for pack in {row.latents.pack for row in batch if row.latents})
        assert read <= most_read
        taken += len(batch)
    assert taken == 64


def test_rows_put_back_go_first() -> None:
    queue = _queue()
    for index in range(4):
        queue.add(_row(index))
    batch = queue.take(2, full=False)
    queue.put_back(batch)
    assert [row.search.row.index for row in queue.take(4, full=False)] == [0, 1, 2, 3]


def test_progress_counts_images_of_rows_in_flight_and_plans_the_most() -> None:
    world = World()
    world.score = lambda prompt, image: 1.0 if prompt == "p0" else 0.5
    run(world, 4, optimizer={"rounds": 3})
    snapshots = world.of(Snapshot)
    assert snapshots[0].images_planned == 16
    assert any(0 < snapshot.images_done < 13 for snapshot in snapshots)
    assert snapshots[-1].images_done == snapshots[-1].images_planned == 13, "p0 was perfect at once"
