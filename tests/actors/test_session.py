"""What a run directory says about a session that an exception has ended, and models that stay loaded in a session."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import yaml

from noisesmith.actors.session import Session, _recorded, session
from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.errors import RunError
from noisesmith.pipeline.replay import replay_row
from noisesmith.pipeline.sinks import RunState, read_rows
from noisesmith.pipeline.telemetry.log import Telemetry
from tests.chaos.killing import actor_processes
from tests.runs import PATIENCE, write_config
from tests.sessions import drive


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


def test_signals_are_the_callers_again_after_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def cluster(*_: object) -> Iterator[None]:
        for number in numbers:  # as Ray does
            signal.signal(number, signal.SIG_IGN)
        yield

    monkeypatch.setattr("noisesmith.actors.session.cluster", cluster)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with session(cast(RunConfig, None), print) as runs:
        signal.raise_signal(signal.SIGINT)
    assert (runs.stopped, runs.exit_code) == (True, 130)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_session_in_a_thread_leaves_signals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a web server, which handles each request in a thread."""
    monkeypatch.setattr("noisesmith.actors.session.cluster", lambda *_: nullcontext())

    def stopped() -> bool:
        with session(cast(RunConfig, None), print) as runs:
            return runs.stopped

    with ThreadPoolExecutor() as pool:
        assert not pool.submit(stopped).result()


class Drives:
    """Runs of two rows with other methods on the same models, one after another in one session."""

    def __init__(self, folder: Path, runs: Session, sd: Path, llava: Path) -> None:
        self._folder = folder
        self._runs = runs
        self._models = (sd, llava)

    def __call__(self, name: str, method: str, *, another_follows: bool = True, **sections: Any) -> None:
        """Make a run, and check that its rows are those of its method."""
        one = {"batch_size": 1, "num_cpus": 0.5}
        path = write_config(self._folder, *self._models, rows=2, generators=one, scorers=one, **sections)
        run_dir = self._folder / name
        plain = yaml.safe_load(path.read_text())
        plain["optimizer"] = {"method": method, "rounds": 1}
        plain["output"]["dir"] = str(run_dir)
        path.write_text(yaml.safe_dump(plain))
        config = load_config(path)
        drive(self._runs, config, another_follows=another_follows)
        rows = list(read_rows(run_dir))
        assert [row["optimizer"] for row in rows] == [method] * 2
        replayed = replay_row(run_dir, config, rows[1]["id"])
        assert (replayed.noise_identical, replayed.max_difference) == (True, 0)


@pytest.fixture
def drives(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> Iterator[Drives]:
    with session(load_config(write_config(tmp_path, tiny_sd, tiny_llava)), print) as runs:
        yield Drives(tmp_path, runs, tiny_sd, tiny_llava)


def models() -> dict[str, list[psutil.Process]]:
    return {kind: actor_processes(kind) for kind in ("generator", "scorer")}


@pytest.mark.slow
def test_models_stay_loaded_between_the_runs_of_a_session(drives: Drives) -> None:
    drives("first", "random_sampling")
    before = models()
    assert [len(found) for found in before.values()] == [1, 1]

    drives("second", "random_diffusion", seed=8)
    assert models() == before

    os.kill(before["generator"][0].pid, signal.SIGKILL)
    psutil.wait_procs(before["generator"], timeout=PATIENCE)
    drives("third", "random_sampling")
    after = models()
    assert after["scorer"] == before["scorer"]
    assert after["generator"] != before["generator"]

    drives("with gradients", "noise_diffusion", another_follows=False)
    gone, _ = psutil.wait_procs([*after["generator"], *after["scorer"]], timeout=PATIENCE)
    assert len(gone) == 2
