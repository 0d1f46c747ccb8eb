"""What a run directory says about a session that an exception has ended."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from noisesmith.actors.session import _recorded
from noisesmith.pipeline.errors import RunError
from noisesmith.pipeline.sinks import RunState
from noisesmith.pipeline.telemetry.log import Telemetry


def end_with(error: BaseException, run_dir: Path, *, lock_is_lost: bool = False) -> None:
    """Raise ``error`` in a session of ``run_dir``."""

    def check_lock() -> None:
        if lock_is_lost:
            raise RunError("another session has taken it over")

    with _recorded(Telemetry(run_dir, {}), cast(RunState, SimpleNamespace(check_lock=check_lock))):
        raise error


def log(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "logs" / "run.jsonl").open()]


def test_a_bug_of_the_driver_is_in_the_log_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        end_with(KeyError("latents"), tmp_path)
    (ended,) = log(tmp_path)
    assert (ended["event"], ended["level"], ended["state"]) == ("run_ended", "ERROR", "failed")
    assert ended["message"] == "KeyError: 'latents'"
    assert f'File "{__file__}", line ' in ended["traceback"]
    assert json.loads((tmp_path / "stats.json").read_text())["operations"]["message"] == "KeyError: 'latents'"


def test_a_run_that_cannot_go_on_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        end_with(RunError("the writer cannot write"), tmp_path)
    (ended,) = log(tmp_path)
    assert ended["message"] == "the writer cannot write"
    assert "RunError: the writer cannot write" in ended["traceback"]


def test_a_stopped_run_has_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        end_with(KeyboardInterrupt(), tmp_path)
    (ended,) = log(tmp_path)
    assert (ended["state"], ended["message"]) == ("stopped", "")
    assert "traceback" not in ended


def test_nothing_is_written_to_a_directory_that_is_lost(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        end_with(KeyError("latents"), tmp_path, lock_is_lost=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["logs"]
