"""What a run writes about itself: figures that add up, and a log that tools can read."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.telemetry import log as telemetry
from noisesmith.pipeline.telemetry.events import (
    ActorReplaced,
    Event,
    RowFailed,
    RowRetried,
    RowWritten,
    RunEnded,
    RunStarted,
    ShardCommitted,
    Snapshot,
    WorkersMoved,
)
from noisesmith.pipeline.telemetry.log import Telemetry
from noisesmith.pipeline.telemetry.tally import Tally

RETRY = {"stage": "score", "actor": "node3:7", "error": "ServerError", "message": "busy"}
LOGGED = {"where": "score", "actor": "node3:7", "error": "ServerError", "message": "busy"}
EVENTS: list[Event] = [
    RunStarted(10, 4),
    Snapshot(3, {"generate": 2, "score": 1}, 0.5, 0.25, images_done=12, images_planned=90),
    RowRetried("00000005-ab", 1, **RETRY),
    RowWritten("00000004-ab", 1, 2, 0.25, 0.75, 1.5),
    ActorReplaced("generator", "node3:8", 1, "killed"),
    ShardCommitted(0),
    RowFailed("00000005-ab", 2, **RETRY, seconds=2.0),
]


def figures(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "stats.json").read_text())["operations"]


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "logs" / "run.jsonl").read_text().splitlines()]


def test_figures_follow_the_run_and_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Event] = []
    run = Telemetry(tmp_path, {"generators": 2}, heard.append)
    for event in EVENTS[:2]:
        run.emit(event)
    assert figures(tmp_path)["state"] == "running", "at once, not after the first interval"
    for event in EVENTS[2:]:
        run.emit(event)
    assert figures(tmp_path)["rows_written"] == 0, "and then now and then"
    monkeypatch.setattr(telemetry, "INTERVAL", 0.0)
    run.emit(EVENTS[1])
    found = figures(tmp_path)
    expected = {
        "state": "running", "rows": 10, "rows_done": 6, "rows_written": 1, "rows_failed": 1, "retries": 1, "rounds": 2,
        "rows_failed_by_error": {"ServerError": 1}, "errors": {"ServerError": 2}, "in_flight": 3, "generators": 2,
        "queues": {"generate": 2, "score": 1}, "busy_generators": 0.5, "busy_scorers": 0.25,
        "scores": [0.25, 0.75], "images_done": 12, "images_planned": 90,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert heard == [*EVENTS, EVENTS[1]]
    run.emit(RunEnded("failed", "the disk is full"))
    assert (figures(tmp_path)["state"], figures(tmp_path)["message"]) == ("failed", "the disk is full")


def test_the_log_has_a_line_for_every_event(tmp_path: Path) -> None:
    run = Telemetry(tmp_path, {})
    for event in [*EVENTS, RunEnded("failed", "half a \ud800 pair")]:
        run.emit(event)
    found = lines(tmp_path)
    logged = [(line["event"], line["level"]) for line in found]
    assert logged == [
        ("run_started", "INFO"), ("row_retried", "WARNING"), ("row_written", "INFO"), ("actor_replaced", "WARNING"),
        ("shard_committed", "INFO"), ("row_failed", "ERROR"), ("run_ended", "ERROR"),
    ]  # fmt: skip
    assert {**found[1], "time": ""} == {
        "time": "", "level": "WARNING", "event": "row_retried", "row": "00000005-ab", "attempt": 1, **LOGGED
    }  # fmt: skip
    assert all(datetime.fromisoformat(line["time"]).tzinfo == UTC for line in found)


def test_the_figures_have_the_numbers_of_workers_after_a_move(tmp_path: Path) -> None:
    """Scorers of all groups together, as at the start."""
    run = Telemetry(tmp_path, {"generators": 4, "scorers": 4, "writers": 2})
    before = {"generator": 4, "scorer llava": 2, "scorer qwen": 2}
    after = {"generator": 5, "scorer llava": 2, "scorer qwen": 1}
    moved = WorkersMoved(before, after, {"generator": 1.0, "scorer llava": 0.9, "scorer qwen": 0.4})
    run.emit(moved)
    assert lines(tmp_path)[0]["event"] == "workers_moved"
    assert lines(tmp_path)[0]["after"] == after
    run.emit(RunEnded("finished"))
    found = figures(tmp_path)
    assert (found["generators"], found["scorers"], found["writers"]) == (5, 3, 2)
    assert str(moved) == (
        "workers move: generator 4 → 5 (100% busy), scorer llava 2 → 2 (90% busy), scorer qwen 2 → 1 (40% busy)"
    )


def test_tracebacks_are_in_the_log_where_there_are_any(tmp_path: Path) -> None:
    run = Telemetry(tmp_path, {})
    for traceback in ("", "Traceback …\nKeyError: 'x'"):
        run.emit(RowRetried("00000005-ab", 1, **RETRY, traceback=traceback))
        run.emit(RowFailed("00000005-ab", 2, **RETRY, seconds=2.0, traceback=traceback))
        run.emit(ActorReplaced("generator", "node3:8", 1, "killed", traceback=traceback))
        run.emit(RunEnded("failed", "the disk is full", traceback=traceback))
    found = [line.get("traceback") for line in lines(tmp_path)]
    assert found == [None] * 4 + ["Traceback …\nKeyError: 'x'"] * 4


def test_the_terminal_and_the_log_share_one_count(tmp_path: Path) -> None:
    tally = Tally()
    seen: list[int] = []
    run = Telemetry(tmp_path, {}, lambda _: seen.append(tally.rows), tally=tally)
    for event in EVENTS:
        run.emit(event)
    assert run.tally is tally
    assert seen == [0, 0, 0, 1, 1, 1, 1], "an event is counted before a listener sees it"


def test_the_log_goes_on_in_the_next_session_and_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Telemetry(tmp_path, {}).emit(ShardCommitted(0))
    Telemetry(tmp_path, {}).emit(ShardCommitted(1))
    assert [line["shard"] for line in lines(tmp_path)] == [0, 1]
    monkeypatch.setattr(telemetry, "LOG_BYTES", 1000)
    run = Telemetry(tmp_path, {})
    for shard in range(100):
        run.emit(ShardCommitted(shard))
    sizes = [path.stat().st_size for path in (tmp_path / "logs").iterdir()]
    assert len(sizes) == 5
    assert max(sizes) <= 1000
    assert lines(tmp_path)[-1]["shard"] == 99


def test_a_full_disk_silences_the_log_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("in the way")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    heard: list[Event] = []
    run = Telemetry(tmp_path, {}, heard.append)
    for event in EVENTS:
        run.emit(event)
    assert heard == EVENTS
    assert capsys.readouterr() == ("", "")
