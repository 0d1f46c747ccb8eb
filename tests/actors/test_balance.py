"""Workers that move from an idle side to a busy one, without Ray and with a clock of our own."""

from __future__ import annotations

import heapq
import pickle
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayError

from noisesmith.pipeline.telemetry.events import ActorReplaced, RowWritten, Snapshot, WorkersMoved
from tests.actors.world import FakeWorker, Sent, TimedWorld, config, driver

AUTO = {"mode": "auto", "rebalance_seconds": 60}
FOUR = {"count": 4, "num_gpus": 1}


class PacedWorld(TimedWorld):
    """A world whose generate and score calls take the seconds that a test sets, and that counts living workers."""

    def __init__(self, generate: float, score: float, spread: float = 0.0) -> None:
        super().__init__(1.0, spread, seed=1)
        self.takes = {"generate": generate, "score": score}
        self.most_alive = 0
        self.made: list[tuple[str, int]] = []
        self.killed_at_work: list[FakeWorker] = []

    def _worker(self, kind: str, group: int = 0) -> FakeWorker:
        worker = super()._worker(kind, group)
        self.most_alive = max(self.most_alive, len(self.alive("generator")) + len(self.alive("scorer")))
        return worker

    def alive(self, kind: str) -> list[FakeWorker]:
        return [worker for worker in self.workers if worker.kind == kind and not worker.killed]

    def kill(self, worker: Any) -> None:
        if worker.busy:
            self.killed_at_work.append(worker)
        super().kill(worker)

    def receive(self, worker: FakeWorker, stage: str, arguments: tuple[Any, ...]) -> Any:
        if stage == "generate":
            self.made += [(order.task.key.row_id, order.task.key.round) for order in pickle.loads(arguments[0])]
        return super().receive(worker, stage, arguments)

    def handle(self, seconds: float) -> None:
        for when, action in self.at:
            if when <= self.now:
                action()
        super().handle(seconds)

    def _begin(self, worker: FakeWorker) -> None:
        takes = self.takes.get(worker.busy[0].stage, 0.0)
        takes *= self._random.uniform(1 - self._spread, 1 + self._spread)
        self._started += 1
        heapq.heappush(self._ends, (self.now + takes, self._started, worker))

    def _report(self, sent: Sent) -> Any:
        report = super()._report(sent)
        return replace(report, seconds=self.takes[sent.stage]) if sent.stage in self.takes else report

    def moves(self) -> list[tuple[int, int]]:
        return [(move.after["generator"], move.after["scorer"]) for move in self.of(WorkersMoved)]


def work(world: PacedWorld, rows: int, **sections: Any) -> None:
    base = {"generators": FOUR, "scorers": FOUR, "optimizer": {"rounds": 5}, "placement": AUTO}
    settings = config(**(base | sections))
    assert driver(world, rows, settings).run().complete
    assert len(world.of(RowWritten)) == rows
    assert not world.killed_at_work


def test_workers_move_to_the_side_that_takes_longer() -> None:
    world = PacedWorld(generate=6.0, score=2.0)
    work(world, 300)
    assert world.moves()[-1] == (6, 2)
    assert (len(world.alive("generator")), len(world.alive("scorer"))) == (6, 2)
    (first, *_) = world.of(WorkersMoved)
    assert first.before == {"generator": 4, "scorer": 4}
    assert first.busy["generator"] > 0.9 > 0.85 > first.busy["scorer"]


def test_scorers_can_be_the_slower_side() -> None:
    world = PacedWorld(generate=1.0, score=7.0)
    work(world, 300)
    assert world.moves()[-1] == (1, 7)


def test_workers_never_take_more_than_at_the_start() -> None:
    world = PacedWorld(generate=6.0, score=2.0)
    work(world, 300)
    assert world.most_alive == 8


def test_a_worker_that_takes_two_gpus_makes_room_for_two() -> None:
    world = PacedWorld(generate=8.0, score=1.0)
    work(world, 300, scorers={"count": 2, "num_gpus": 2, "num_cpus": 2})
    assert world.moves()[-1] == (6, 1)


def test_the_same_images_are_made_as_without_moves() -> None:
    moved, fixed = PacedWorld(6.0, 2.0), PacedWorld(6.0, 2.0)
    work(moved, 300)
    work(fixed, 300, placement="fixed")
    assert moved.moves()
    assert not fixed.moves()
    assert sorted(moved.made) == sorted(fixed.made)
    assert len(moved.made) == 300 * 6
    assert moved.now < fixed.now, "the run has become faster"


def test_sides_in_balance_stay_as_they_are() -> None:
    world = PacedWorld(generate=2.0, score=2.0, spread=0.3)
    work(world, 300)
    assert world.moves() == []


def test_times_that_vary_do_not_make_workers_swing() -> None:
    """Between five and six generators of eight workers there is next to nothing."""
    world = PacedWorld(generate=2.2, score=1.0, spread=0.5)
    work(world, 800)
    assert 1 <= len(world.moves()) <= 2


def test_a_side_that_becomes_slower_gets_its_workers_back() -> None:
    world = PacedWorld(generate=6.0, score=2.0)

    def slow_down() -> None:
        world.takes = {"generate": 2.0, "score": 6.0}

    world.at.append((400.0, slow_down))
    work(world, 700)
    assert (6, 2) in world.moves()
    assert world.moves()[-1] == (2, 6)


def test_nothing_moves_before_the_time_that_the_config_states() -> None:
    world = PacedWorld(generate=6.0, score=2.0)
    work(world, 300, placement={"mode": "auto", "rebalance_seconds": 86400})
    assert world.moves() == []


def test_nothing_moves_once_all_rows_are_admitted() -> None:
    world = PacedWorld(generate=6.0, score=2.0)
    work(world, 60, optimizer={"rounds": 50}, rows_in_flight=60)
    assert world.now > 600
    assert world.moves() == []


@pytest.mark.parametrize("dies", [1, 2])
def test_a_worker_that_dies_while_it_leaves_is_not_replaced(dies: int) -> None:
    """Its calls go on elsewhere. The death of a worker that stays is repaired as always."""
    world = PacedWorld(generate=6.0, score=2.0)
    died: list[FakeWorker] = []

    def outcome(sent: Sent) -> RayError | None:
        if world.of(WorkersMoved) and sent.stage == "score" and len(died) < dies:
            died.append(sent.worker)
            return ActorDiedError()
        return None

    world.outcome = outcome
    work(world, 300)
    assert len(died) == dies
    assert len(world.of(ActorReplaced)) <= dies
    assert (len(world.alive("generator")), len(world.alive("scorer"))) == world.moves()[-1]


def test_more_rows_are_in_flight_where_more_workers_ask_for_them() -> None:
    world = PacedWorld(generate=32.0, score=1.0)
    work(world, 300, generators=FOUR | {"batch_size": 16}, scorers=FOUR | {"batch_size": 2})
    most = max(snapshot.in_flight for snapshot in world.of(Snapshot))
    assert most > 2 * (4 * 16 + 4 * 2)
