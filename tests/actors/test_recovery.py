"""What happens to rows after a fault, in milliseconds: no Ray, no models, no time but a clock of our own."""

from __future__ import annotations

import itertools
from itertools import pairwise

import pytest
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
)

from noisesmith.actors.pool import MAX_DEATHS as MAX_SLOT_DEATHS
from noisesmith.actors.retry import MAX_KILLS
from noisesmith.pipeline.errors import MemoryExhausted, RunError
from noisesmith.pipeline.telemetry.events import (
    ActorReplaced,
    BatchHalved,
    RowFailed,
    RowRetried,
    RowWritten,
    ShardCommitted,
    Snapshot,
)
from tests.actors.world import (
    CALL_SECONDS,
    World,
    config,
    driver,
    raised,
    run,
)


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


def test_a_dead_worker_is_replaced_and_costs_one_call() -> None:
    world = World()
    deaths = iter([ActorDiedError()])
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


def test_a_worker_killed_for_memory_gets_smaller_batches_and_no_row_is_blamed() -> None:
    world = World()
    killed = OutOfMemoryError("low on memory")
    world.outcome = lambda sent: killed if sent.stage == "score" and len(sent.prompts) > 2 else None
    assert run(world, 8).complete
    assert [(event.stage, event.batch_size) for event in world.of(BatchHalved)] == [("score", 2)]
    (replaced,) = world.of(ActorReplaced)
    assert (replaced.side, replaced.message) == ("scorer", "low on memory")
    assert world.of(RowRetried) == world.of(RowFailed) == []
    assert len(world.of(RowWritten)) == 8


def test_a_host_short_of_memory_is_given_time() -> None:
    """Each new worker is started after twice the wait; until then none is, and no row pays for it."""
    world = World()
    pressure = 40.0
    world.outcome = lambda sent: OutOfMemoryError("low") if sent.stage == "generate" and world.now < pressure else None
    assert run(world, 8).complete
    tries = sorted({sent.time for sent in world.sent if sent.stage == "generate" and sent.time < pressure})
    waits = [later - earlier - CALL_SECONDS for earlier, later in pairwise(tries)]
    assert waits == pytest.approx([1, 2, 4, 8, 16], abs=0.6)
    assert len(world.of(ActorReplaced)) == len(tries) - 1
    assert world.of(RowFailed) == []
    assert len(world.of(RowWritten)) == 8


def test_a_host_without_memory_ends_the_run_before_any_row_fails() -> None:
    world = World()
    world.outcome = lambda sent: OutOfMemoryError("low") if sent.stage == "generate" else None
    with pytest.raises(RunError, match=rf"a generator died {MAX_SLOT_DEATHS} times in a row .*\(low\)"):
        run(world, 1)
    assert world.of(RowFailed) == []


def test_a_row_that_no_host_has_memory_for_fails_alone() -> None:
    world = World()
    world.outcome = lambda sent: OutOfMemoryError("low") if "p1" in sent.prompts and sent.stage == "generate" else None
    assert run(world, 60, generators={"batch_size": 1}).complete
    (letter,) = world.of(RowFailed)
    assert (letter.row, letter.error) == ("00000001", "OutOfMemoryError")
    assert len(world.of(ActorReplaced)) == MAX_KILLS


@pytest.mark.parametrize("stage", ["generate", "put", "prepare"])
def test_a_cluster_that_cannot_go_on_ends_the_run_and_blames_no_row(stage: str) -> None:
    world = World()
    world.outcome = lambda sent: OutOfDiskError("", b"", "") if sent.stage == stage else None
    with pytest.raises(RunError, match=r"Ray cannot go on \(OutOfDiskError: "):
        run(world, 4)
    assert world.of(RowFailed) == world.of(RowRetried) == []


@pytest.mark.parametrize("kind", ["generator", "scorer", "writer"])
@pytest.mark.parametrize("death", [ActorDiedError(), OutOfMemoryError("low"), NodeDiedError("gone")], ids=str)
def test_a_worker_that_dies_while_loading_is_replaced(kind: str, death: RayError) -> None:
    world = World()
    deaths = iter([death, death])
    world.outcome = lambda sent: next(deaths, None) if sent.stage == "load" and sent.worker.kind == kind else None
    assert run(world, 4).complete
    assert [event.side for event in world.of(ActorReplaced)] == [kind] * 2
    assert len(world.of(RowWritten)) == 4
    assert world.of(RowFailed) == world.of(RowRetried) == []


@pytest.mark.parametrize("stage", ["put", "prepare"])
@pytest.mark.parametrize("death", [ActorDiedError(), OutOfMemoryError("low")], ids=["died", "killed"])
def test_a_writer_that_dies_is_replaced_and_writes_every_row_once(stage: str, death: RayError) -> None:
    world = World()
    deaths = iter([death])
    world.outcome = lambda sent: next(deaths, None) if sent.stage == stage else None
    assert run(world, 4).complete
    assert len([worker for worker in world.workers if worker.kind == "writer"]) == 2
    assert len(world.of(RowWritten)) == 4
    assert world.of(RowRetried) == []


@pytest.mark.parametrize("stage", ["put", "prepare"])
def test_writers_that_die_again_and_again_commit_every_shard_once(stage: str) -> None:
    world = World()
    deaths = iter([ActorDiedError()] * 5)
    calls = itertools.count()
    world.outcome = lambda sent: next(deaths, None) if sent.stage == stage and next(calls) % 2 else None
    assert run(world, 40, writers={"count": 3}, output={"rows_per_shard": 4}).complete
    assert sorted(event.shard for event in world.of(ShardCommitted)) == list(range(10))
    assert sorted(event.row for event in world.of(RowWritten)) == [f"{index:08d}" for index in range(40)]
    assert [event.side for event in world.of(ActorReplaced)] == ["writer"] * 5


def test_a_shard_of_dead_letters_is_committed() -> None:
    world = World()
    world.outcome = lambda sent: raised(ValueError("no")) if sent.stage == "score" and "p0" in sent.prompts else None
    run(world, 2, output={"rows_per_shard": 1}, faults={"retries": 0, "failed_share": 1.0})
    assert [event.row for event in world.of(RowFailed)] == ["00000000"]
    assert sorted(event.shard for event in world.of(ShardCommitted)) == [0, 1]


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


def test_rows_that_always_fail_stop_no_run_that_has_written_many() -> None:
    """As in ``retry``, where the rows of this session are those that have failed before."""
    settings = config(faults={"retries": 0, "failed_share": 0.5})
    world = World()
    world.outcome = lambda sent: raised(ValueError("bad")) if sent.stage == "generate" else None
    assert driver(world, 100, settings, written=range(60)).run().complete
    assert len(world.of(RowFailed)) == 40

    world = World()
    world.outcome = lambda sent: raised(ValueError("bad")) if sent.stage == "generate" else None
    with pytest.raises(RunError, match="31 of 61 rows failed"):
        driver(world, 100, settings, written=range(30)).run()


def test_z_0_that_is_lost_before_it_is_rendered_starts_the_search_again() -> None:
    world = World()
    lost = iter([ObjectLostError("0" * 28, b"", "")])
    world.outcome = lambda sent: next(lost, None) if sent.stage == "render" else None
    assert run(world, 2).complete
    assert len(world.of(RowWritten)) == 2
    assert sum(world.batches("render")) == 4
    assert sum(world.batches("generate")) == 8
