"""The counts of a session, and how well they estimate the time left."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from noisesmith.pipeline.telemetry import tally as tally_module
from noisesmith.pipeline.telemetry.events import RowFailed, RowRetried, RowWritten, RunStarted, Snapshot
from noisesmith.pipeline.telemetry.tally import Tally


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tally_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def started(rows: int, planned: int, done: int = 0) -> Tally:
    """A session that has just loaded its models."""
    tally = Tally()
    tally.count(RunStarted(rows, done))
    tally.count(snapshot(0, 0, planned))
    return tally


def snapshot(in_flight: int, images_done: int, images_planned: int) -> Snapshot:
    return Snapshot(in_flight, {}, 0.0, 0.0, images_done, images_planned)


def written(row: int) -> RowWritten:
    return RowWritten(f"{row:08}-ab", 1, 4, 0.25, 0.75, 1.0)


def failed(row: int) -> RowFailed:
    return RowFailed(f"{row:08}-ab", 1, "score", "node:1", "KeyError", "x", seconds=1.0)


def test_time_left_is_known_from_the_first_batch_on(clock: Clock) -> None:
    tally = started(rows=100, planned=500)
    assert tally.eta_seconds is None
    clock.now += 20
    tally.count(snapshot(8, 0, 500))
    assert tally.eta_seconds is None
    clock.now += 10
    tally.count(snapshot(8, 8, 500))
    assert tally.rows == 0
    assert tally.images_per_minute == pytest.approx(16)
    assert tally.eta_seconds == pytest.approx(492 * 30 / 8)


def test_rows_that_end_early_shorten_the_time_of_waiting_rows(clock: Clock) -> None:
    tally = started(rows=100, planned=1100)
    clock.now += 60
    for row in range(50):
        tally.count(written(row))
    tally.count(snapshot(0, 50, 600))  # each took 1 image of 11
    assert tally.images_left == pytest.approx(50)
    assert tally.eta_seconds == pytest.approx(60)


def test_the_first_rows_to_end_are_short_and_promise_little(clock: Clock) -> None:
    tally = started(rows=1000, planned=11_000)
    clock.now += 60
    tally.count(written(0))
    tally.count(snapshot(99, 100, 10_990))  # one row of a hundred took 1 image of 11
    assert tally.images_left == pytest.approx(10_890 - 900 * 10 / 100)


def test_rows_of_earlier_sessions_and_failed_rows_take_no_more_time(clock: Clock) -> None:
    tally = started(rows=100, planned=200, done=60)
    clock.now += 60
    for row in range(30):
        tally.count(written(row))
    for row in range(30, 40):
        tally.count(failed(row))
    tally.count(snapshot(0, 160, 160))
    assert tally.done == 100
    assert tally.eta_seconds == 0


def test_retries_and_failures_are_counted_by_class() -> None:
    tally = started(rows=3, planned=9)
    tally.count(RowRetried("00000000-ab", 1, "score", "node:1", "ServerError", "busy"))
    tally.count(failed(0))
    assert tally.retries == 1
    assert dict(tally.failed) == {"KeyError": 1}
    assert dict(tally.errors) == {"ServerError": 1, "KeyError": 1}


@dataclass
class SimulatedRow:
    length: int
    images: int = 0


@pytest.mark.parametrize("early_share", [0.0, 0.3, 0.9])
def test_the_estimate_is_good_when_half_of_the_work_is_done(clock: Clock, early_share: float) -> None:
    """1,000 rows take at most 21 images, a share of them fewer; each image takes one second, 48 rows are in flight."""
    most, flight = 21, 48
    choose = random.Random(3)
    waiting = []
    for _ in range(1000):
        ends_early = choose.random() < early_share
        waiting.append(SimulatedRow(choose.randint(1, most) if ends_early else most))
    total = sum(row.length for row in waiting)
    tally = started(rows=1000, planned=1000 * most)
    in_flight: list[SimulatedRow] = []
    images_done = images_of_ended = 0
    while images_done < total / 2:
        while len(in_flight) < flight:
            in_flight.append(waiting.pop())
        for row in list(in_flight):
            row.images += 1
            if row.images == row.length:
                in_flight.remove(row)
                images_of_ended += row.length
                tally.count(written(0))
        images_done += flight
        clock.now += flight
        planned = images_of_ended + most * (len(in_flight) + len(waiting))
        tally.count(snapshot(len(in_flight), images_done, planned))
    assert tally.eta_seconds == pytest.approx(total - images_done, rel=0.15)
