"""Rows at several groups of scorers at once, without Ray: no row is lost or scored twice, whatever fails where."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, OutOfMemoryError, RayError

from noisesmith.pipeline.errors import MemoryExhausted, UnusableImage
from noisesmith.pipeline.telemetry.events import ActorReplaced, BatchHalved, RowFailed, RowRetried, RowWritten, Snapshot
from tests.actors.world import Sent, World, config, driver, raised, run

PANEL: list[dict[str, Any]] = [
    {"name": "a", "batch_size": 4, "weight": 1.0},
    {"name": "b", "batch_size": 2, "count": 2, "weight": 3.0},
]
LOST = ObjectLostError("0" * 28, b"", "")


def _scores(world: World, group: int) -> list[Sent]:
    return [sent for sent in world.sent if sent.stage == "score" and sent.worker.group == group]


def _once(group: int, error: RayError, after: float = 0.0) -> Callable[[Sent], RayError | None]:
    """One call of a group of scorers fails, the first that was sent ``after`` seconds."""
    left = [error]

    def outcome(sent: Sent) -> RayError | None:
        meant = sent.stage == "score" and sent.worker.group == group and sent.time >= after
        return left.pop() if meant and left else None

    return outcome


def _images(world: World, group: int) -> Counter[str]:
    """How often each row was sent to a group."""
    return Counter(prompt for sent in _scores(world, group) for prompt in sent.prompts)


def test_every_group_scores_every_image_and_the_row_has_the_weighted_geometric_mean() -> None:
    world = World()
    world.shift = {1: -1.0}
    assert run(world, 8, scorers=PANEL).complete
    assert set(_images(world, 0).values()) == set(_images(world, 1).values()) == {2}
    assert max(len(sent.prompts) for sent in _scores(world, 1)) == 2, "a batch size of its own"
    expected = math.exp(math.log(0.5) - 3.0 / 4.0)
    assert [event.score for event in world.of(RowWritten)] == pytest.approx([expected] * 8)
    assert set(world.of(Snapshot)[0].queues) == {"generate", "score a", "score b", "render", "write", "retry"}


def test_a_round_starts_from_the_gradient_of_every_group() -> None:
    world = World()
    run(world, 4, scorers=[{**PANEL[0]}, {**PANEL[1], "batch_size": 4, "count": 1}], optimizer={"rounds": 2})
    calls = [sent for sent in world.sent if sent.stage == "generate"]
    assert [sent.packs for sent in calls] == [0, 3, 3], "one of the states, two of the gradients"


def test_only_the_group_of_the_first_scorers_renders() -> None:
    world = World()
    run(world, 4, scorers=PANEL)
    assert {sent.worker.group for sent in world.sent if sent.stage == "render"} == {0}


def test_a_failed_call_is_repeated_by_its_group_alone() -> None:
    world = World()
    world.outcome = _once(1, raised(ConnectionError("no")))
    assert run(world, 1, scorers=PANEL).complete
    assert _images(world, 0)["p0"] == 2
    assert _images(world, 1)["p0"] == 3
    assert [event.stage for event in world.of(RowRetried)] == ["score b"]
    assert world.of(Snapshot)[-1].images_done == 2


def test_a_dead_worker_of_one_group_is_replaced_and_the_other_group_works_on() -> None:
    world = World()
    world.outcome = _once(1, ActorDiedError())
    assert run(world, 12, scorers=PANEL).complete
    (replaced,) = world.of(ActorReplaced)
    assert replaced.side == "scorer b"
    assert set(_images(world, 0).values()) == {2}
    assert len(world.of(RowWritten)) == 12


@pytest.mark.parametrize("lost_by", [0, 1])
def test_lost_objects_restart_a_row_and_late_answers_are_not_for_it(lost_by: int) -> None:
    world = World()
    world.pace = {1: 3}
    world.outcome = _once(lost_by, LOST, after=4.0)
    assert run(world, 6, scorers=PANEL, optimizer={"rounds": 2}).complete
    assert [event.rounds for event in world.of(RowWritten)] == [2] * 6
    assert world.of(Snapshot)[-1].images_done == 18
    assert sum(world.batches("generate")) > 18


def test_an_image_that_one_group_finds_unusable_ends_the_search_whatever_the_other_says() -> None:
    world = World()
    world.pace = {1: 5}
    flat = raised(UnusableImage("flat"))
    world.outcome = lambda sent: flat if sent in _scores(world, 0) and sent.time > 6 and "p0" in sent.prompts else None
    assert run(world, 2, scorers=PANEL, optimizer={"rounds": 4}, faults={"retries": 0}).complete
    rounds = {event.row: event.rounds for event in world.of(RowWritten)}
    assert rounds["00000000"] < rounds["00000001"] == 4
    assert world.of(RowFailed) == []


def test_a_row_that_fails_for_good_in_one_group_gets_one_dead_letter() -> None:
    world = World()
    world.pace = {1: 2}
    world.outcome = lambda sent: raised(KeyError("no")) if sent.stage == "score" and "p0" in sent.prompts else None
    assert run(world, 6, scorers=PANEL).complete
    assert [event.row for event in world.of(RowFailed)] == ["00000000"]
    assert len(world.of(RowWritten)) == 5


def test_only_the_group_without_memory_gets_smaller_batches() -> None:
    world = World()
    full = raised(MemoryExhausted("full"))
    world.outcome = lambda sent: full if sent in _scores(world, 0) and len(sent.prompts) > 2 else None
    assert run(world, 12, scorers=PANEL).complete
    assert {(event.stage, event.batch_size) for event in world.of(BatchHalved)} == {("score a", 2)}
    assert world.of(RowRetried) == world.of(RowFailed) == []


def test_draining_finishes_the_rows_in_flight() -> None:
    world = World()
    world.pace = {1: 2}
    drained = driver(world, 1000, config(rows_in_flight=8, scorers=PANEL))
    world.at.append((2.0, drained.drain))
    assert not drained.run().complete
    assert len(world.of(RowWritten)) == 8


@pytest.mark.parametrize("seed", range(25))
def test_whatever_fails_every_row_ends_once(seed: int) -> None:
    """Random faults in every stage: each row is written or has a dead letter, and has all its images if written."""
    chance = random.Random(seed)
    world = World()
    world.pace = {1: chance.choice([1, 2, 3])}
    errors = [
        lambda: raised(ConnectionError("no")), lambda: raised(UnusableImage("flat")), lambda: LOST, ActorDiedError,
        lambda: raised(MemoryExhausted("full")), lambda: OutOfMemoryError("low"),
    ]  # fmt: skip

    def outcome(sent: Sent) -> RayError | None:
        fails = sent.stage in ("generate", "score", "render") and chance.random() < 0.08
        return chance.choice(errors)() if fails else None

    world.outcome = outcome
    faults = {"backoff_seconds": 1.0, "retries": 2, "failed_share": 1.0}
    assert run(world, 24, scorers=PANEL, optimizer={"rounds": 3}, faults=faults).complete
    ended = [event.row for event in [*world.of(RowWritten), *world.of(RowFailed)]]
    assert sorted(ended) == [f"{index:08d}" for index in range(24)]
    assert all(0 < event.score <= 1 and event.rounds <= 3 for event in world.of(RowWritten))
    assert world.of(Snapshot)[-1].in_flight == 0
