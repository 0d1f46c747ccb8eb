"""What happens to rows after a fault, in milliseconds: no Ray, no models, no time but a clock of our own."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, OutOfMemoryError, RayError

from noisesmith.actors.pool import MAX_DEATHS as MAX_SLOT_DEATHS
from noisesmith.pipeline.errors import MemoryExhausted, RunError
from noisesmith.pipeline.telemetry.events import (
    ActorReplaced,
    BatchHalved,
    RowFailed,
    RowRetried,
    RowWritten,
    Snapshot,
)
from tests.actors.world import (
    CALL_SECONDS,
    World,
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
