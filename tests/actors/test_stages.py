"""How batches are formed and sent, in milliseconds: no Ray, no models, no time but a clock of our own."""

from __future__ import annotations

import pickle
from statistics import fmean
from typing import Any

import pytest

from noisesmith.actors.packs import Pack, Stored
from noisesmith.actors.row_task import MAX_READ, RowQueue, RowTask
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.search.row import RowSearch
from noisesmith.pipeline.telemetry.events import (
    RowWritten,
    ShardCommitted,
    Snapshot,
)
from tests.actors.parts import Parts
from tests.actors.world import (
    CALL_SECONDS,
    POSITION,
    FakeWorker,
    Reference,
    Sent,
    TimedWorld,
    World,
    config,
    driver,
    run,
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


class SmallCluster(World):
    """A world in which only the first ``places`` workers load at once; the others do when nodes join at ``joined``."""

    def __init__(self, places: int, joined: float) -> None:
        super().__init__()
        self._places = places
        self._without_place: list[Sent] = []
        self.at.append((joined, self._join))

    def _answer_at_once(self, sent: Sent, arguments: tuple[Any, ...] = ()) -> None:
        if sent.stage == "load" and sent.worker in self.workers[self._places :] and sent.worker.kind != "writer":
            self._without_place.append(sent)
        else:
            super()._answer_at_once(sent, arguments)

    def _join(self) -> None:
        self._places = len(self.workers)
        while self._without_place:
            super()._answer_at_once(self._without_place.pop())


def test_workers_that_find_a_place_start_and_the_others_join_them() -> None:
    joined = 20 * CALL_SECONDS
    world = SmallCluster(places=3, joined=joined)
    sides = {"generators": {"count": 4}, "scorers": {"count": 2}}
    assert run(world, 200, **sides).complete
    before = {sent.worker.name for sent in world.sent if sent.time < joined} - {"writer-6"}
    after = {sent.worker.name for sent in world.sent if sent.time > joined}
    assert before == {"generator-0", "scorer-1", "generator-2"}, "both sides share what places there are"
    assert after > {"scorer-3", "generator-4", "generator-5"}
    shares = [event.busy_generators for event in world.events if isinstance(event, Snapshot)]
    assert shares[1] == 1.0, "workers without a place do not count as idle ones"


def test_by_default_both_sides_are_busy_although_calls_differ_in_time() -> None:
    workers, rows, rounds, seconds = 8, 2048, 2, 2.0
    world = TimedWorld(seconds, spread=0.3, seed=0)
    side = {"batch_size": 8, "count": workers}
    run(world, rows, generators=side, scorers=side, optimizer={"rounds": rounds})
    for stage in ("generate", "score"):
        assert fmean(world.batches(stage)) > 7.8
    ideal = rows * (rounds + 1) / 8 * seconds / workers
    assert ideal / world.now > 0.95


class ScoreTasks(World):
    """A world that notes which rows of each score call need a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[list[bool]] = []

    def receive(self, worker: FakeWorker, stage: str, arguments: tuple[Any, ...]) -> Any:
        if stage == "score":
            self.gradients.append([order.task.gradient for order in pickle.loads(arguments[0])])
        return super().receive(worker, stage, arguments)


def test_no_row_pays_for_a_gradient_that_only_another_row_needs() -> None:
    world = ScoreTasks()
    world.score = lambda prompt, image: 0.99 if int(prompt[1:]) % 3 == image else 0.5
    run(world, 60, optimizer={"rounds": 2, "target_score": 0.9})
    assert all(len(set(batch)) == 1 for batch in world.gradients)
    assert {batch[0] for batch in world.gradients} == {True, False}


@pytest.mark.parametrize("short", [{"preview": {"steps": 1, "keep": 1}}, {"probe": {"at": 0.25, "keep": 1}}])
def test_rows_of_other_sampler_steps_are_batched_apart(short: dict[str, Any]) -> None:
    world = Parts()
    assert run(world, 6, optimizer={"rounds": 2} | short, generators={"batch_size": 4, "steps": 4}).complete
    assert len(world.of(RowWritten)) == 6
    assert all(len(parts) == 1 for parts in world.parts)
    assert all(world.resumed)
    if "probe" in short:
        assert set.union(*world.parts) == {(0, None), (0, 1), (1, None)}
        assert len(world.resumed) == 6


def test_rows_of_one_shard_are_written_together_by_several_writers() -> None:
    world = World()
    run(world, 40, rows_in_flight=40, writers={"count": 2}, output={"rows_per_shard": 16})
    puts = [sent for sent in world.sent if sent.stage == "put"]
    written = [int(prompt[1:]) for sent in puts for prompt in sent.prompts]
    assert sorted(written) == list(range(40))
    assert all(len({int(prompt[1:]) // 16 for prompt in sent.prompts}) == 1 for sent in puts)
    assert len(puts) <= 20, "rendered in pairs, and written at least so"
    assert len({sent.worker.name for sent in puts}) == 2
    assert sorted(event.shard for event in world.of(ShardCommitted)) == [0, 1, 2]


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
    if packs:
        row.search.latents[0] = Stored(packs[0], POSITION)
    return row


def _packs(row: RowTask) -> list[Pack]:
    return [stored.pack for stored in row.search.latents.values()]


def _queue(most_read: int = 1000) -> RowQueue:
    return RowQueue("score", lambda row: None, _packs, most_read)


def test_rows_of_the_same_pack_stay_together() -> None:
    packs = [Pack(Reference(), 4) for _ in range(3)]
    queue = _queue()
    for index in range(12):  # the packs' rows come in turns
        queue.add(_row(index, packs[index % 3]))
    for pack in packs:
        batch = queue.take(4, full=True)
        assert {found for row in batch for found in _packs(row)} == {pack}
    assert len(queue) == 0


def test_a_batch_reads_a_bounded_number_of_rows_and_no_row_is_left_behind() -> None:
    size = 16
    most_read = MAX_READ * size
    queue = _queue(most_read)
    for index in range(64):  # each row is alone in its pack by now
        queue.add(_row(index, Pack(Reference(), size)))
    taken = 0
    while batch := queue.take(size, full=False):
        read = sum(pack.rows for pack in {found for row in batch for found in _packs(row)})
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
