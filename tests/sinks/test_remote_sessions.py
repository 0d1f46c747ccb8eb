"""Whole sessions with their run directory in an object store."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from datasets import load_dataset

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import (
    hold_run,
    verify_run,
)
from noisesmith.pipeline.storage import files, lock
from noisesmith.pipeline.storage.lock import hold
from noisesmith.pipeline.storage.paths import to_path
from noisesmith.pipeline.telemetry.events import RunEnded, RunStarted
from noisesmith.pipeline.telemetry.log import Telemetry
from noisesmith.pipeline.telemetry.status import read_status
from tests.runs import PROMPTS, finish, noisesmith, start, write_config
from tests.s3 import S3
from tests.sinks.conftest import Run

pytestmark = pytest.mark.slow

MakeRun = Callable[..., Run]


def lose_machine(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the driver, Ray and every actor at once."""
    whole = psutil.Process(process.pid)
    for each in (*whole.children(recursive=True), whole):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    finish(process)


def test_a_run_survives_the_loss_of_its_machine(
    s3: S3, url: str, tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost while the first shard is uploaded; the next machine meets 503s, finishes, and doubles nothing."""
    config = write_config(tmp_path, tiny_sd, tiny_llava, output={"dir": url}, optimizer={"rounds": 0})
    uploading, lost = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> tuple[str, str] | None:
        if method == "PUT" and "/data/" in path:
            uploading.set()
            lost.wait(60)
            return "503 Service Unavailable", "ServiceUnavailable"
        return None

    s3.fault = hold
    process = start("run", config)
    assert uploading.wait(200), finish(process)
    lose_machine(process)
    lost.set()
    s3.fault = None
    with s3.failing("503 Slow Down", "SlowDown", "PUT .*(staging|data)/", times=3) as failed:
        code, output = noisesmith("run", config)
    assert code == 0, output
    assert len(failed) == 3
    assert f"dataset: {url}" in output
    assert verify_run(to_path(url)) == []
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    rows = load_dataset("parquet", data_files=f"{url}/data/*.parquet", split="train", cache_dir=str(tmp_path))
    assert rows["prompt"] == [PROMPTS[index % len(PROMPTS)] for index in range(6)]
    assert len(set(rows["id"])) == 6
    assert not (tmp_path / "run").exists()


def test_lock_log_and_status_live_in_the_store_too(
    url: str, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("BEAT", 0.05), ("POLL", 0.05), ("STALE", 1.0)):
        monkeypatch.setattr(lock, name, seconds)
    run = make_run(output={"dir": url})
    with hold_run(run.config, run.corpus, print) as state:
        with pytest.raises(UserError, match="is being written by"), hold(run.dir, print):
            pass
        telemetry = Telemetry(run.dir, {})
        telemetry.emit(RunStarted(10, 0))
        telemetry.emit(RunEnded("stopped"))
        assert read_status(run.dir).state == "running"
        (log,) = (run.dir / "logs").iterdir()
        assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["run_started", "run_ended"]
        state.check_lock()
    assert read_status(run.dir).state == "stopped"
    files.write_atomic(run.dir / ".lock", b"{}")
    notes: list[str] = []
    with hold_run(run.config, run.corpus, notes.append):
        assert "no heartbeat" in notes[-1]
