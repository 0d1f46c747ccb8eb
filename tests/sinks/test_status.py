"""The state of a run as its directory shows it: at work, dead or finished."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.lock import hold, read_owner
from noisesmith.pipeline.telemetry.events import ModelsLoading, RowWritten, RunEnded, RunStarted, Snapshot
from noisesmith.pipeline.telemetry.log import Telemetry
from noisesmith.pipeline.telemetry.status import read_status
from tests.sinks.conftest import Run, failure, result


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def test_status_counts_rows_shards_and_errors(make_run: Callable[..., Run]) -> None:
    run = make_run()
    writer = run.writer()
    for row in run.rows[:6]:
        writer.fail(failure(row)) if row.index in (1, 5) else writer.put(result(row))
    found = read_status(run.dir)
    assert (found.rows, found.rows_done, found.shards, found.shards_committed) == (10, 6, 3, 1)
    assert found.failed == {"OutOfMemoryError": 2}
    assert (found.state, found.owner, found.rows_per_minute, found.busy) == ("stopped", None, None, None)
    for row in run.rows[6:]:
        writer.put(result(row))
    assert read_status(run.dir).state == "finished"


def test_status_tells_the_living_from_the_dead(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.writer()
    session = Telemetry(run.dir, {})
    session.emit(Snapshot(3, {"generate": 2}, 0.5, 0.25))
    with hold(run.dir, print):
        owner = read_owner(run.dir)
        assert owner is not None
        assert read_status(run.dir).state == "running"
        for changes, state in (
            ({"process_start": 1}, "died"),
            ({"machine": "another", "beaten": ago(5)}, "running"),
            ({"machine": "another", "beaten": ago(300)}, "died"),
        ):
            (run.dir / ".lock").write_text(json.dumps(asdict(replace(owner, **changes))))
            assert read_status(run.dir).state == state
    (run.dir / ".lock").unlink(missing_ok=True)
    assert read_status(run.dir).state == "died", "it never said how it ended"
    session.emit(RowWritten(run.rows[0].id, 1, 2, 0.25, 0.75, 1.5))
    session.emit(RunEnded("failed", "no scorer has found a place"))
    assert read_status(run.dir).scores == [0.25, 0.75]
    assert (read_status(run.dir).state, read_status(run.dir).message) == ("failed", "no scorer has found a place")
    (run.dir / "stats.json").write_text('{"operations": ')
    assert read_status(run.dir).state == "stopped"


def test_status_has_the_images_and_rates_of_the_session(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.writer()
    session = Telemetry(run.dir, {})
    session.emit(ModelsLoading())
    assert read_status(run.dir).message == "loading models"
    session.emit(RunStarted(10, 0))
    session.emit(Snapshot(3, {}, 0.5, 0.25, images_done=12, images_planned=510))
    session.emit(RunEnded("stopped"))
    found = read_status(run.dir)
    assert (found.message, found.images_done, found.images_planned) == ("", 12, 510)
    assert found.images_per_minute is not None
    assert found.images_per_minute > 0
    assert found.eta_seconds is not None


def test_figures_of_an_earlier_session_are_not_shown_for_a_new_one(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.writer()
    Telemetry(run.dir, {}).emit(RunEnded("failed", "the disk is full"))
    stats = run.dir / "stats.json"
    stats.write_text(stats.read_text().replace(f'"started": "{datetime.now(UTC).year}', '"started": "2020'))
    assert read_status(run.dir).message == "the disk is full"
    with hold(run.dir, print):
        found = read_status(run.dir)
    assert (found.state, found.message, found.updated_seconds) == ("running", "", None)


def test_status_of_something_else_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "my-run.yaml"
    config.touch()
    for path in (tmp_path, config):
        with pytest.raises(UserError, match=f"^{path}: is not a run directory"):
            read_status(path)


def test_a_file_that_cannot_be_read_is_explained(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run().write_all()

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with hold(run.dir, print):
        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(
            UserError, match=rf"^{run.dir}: cannot be read \(Permission denied\); check its permissions"
        ):
            read_status(run.dir)
