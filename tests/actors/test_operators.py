"""What an operator sees of a run while it works and once it is dead, and who else can."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest

from tests.runs import PATIENCE, await_written_rows, finish, noisesmith, start, write_config

pytestmark = pytest.mark.slow

PROMETHEUS = ("rows_total", "rounds_total", "queue_length", "busy_share", "rows_in_flight", "row_seconds_bucket")


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path, port: int
) -> Iterator[tuple[Popen[str], Path]]:
    """A run at work that has written a row and has many before it, and its config."""
    folder = tmp_path_factory.mktemp("operators")
    config = write_config(folder, tiny_sd, tiny_llava, rows=100_000, ray={"metrics_port": port})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        process = start("run", config)
    await_written_rows(process, folder / "run")
    yield process, config
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)


def status(config: Path) -> dict[str, Any]:
    code, output = noisesmith("status", config.parent / "run", "--json")
    assert code == 0, output
    return json.loads(output)


def files_of(config: Path) -> set[Path]:
    return {path for path in (config.parent / "run").iterdir() if not path.name.endswith(".tmp")}


def test_status_tells_of_a_run_at_work_and_writes_nothing(running: tuple[Popen[str], Path]) -> None:
    process, config = running
    before = files_of(config)
    found = status(config)
    assert found["state"] == "running", found
    assert found["owner"] == f"pid {process.pid} on {socket.gethostname()}"
    assert 0 < found["rows_done"] < found["rows"] == 100_000
    assert found["failed"] == {}
    assert set(found["queues"]) == {"generate", "score", "render", "write", "retry"}
    assert files_of(config) == before
    code, output = noisesmith("status", config.parent / "run")
    assert code == 0
    assert f"running (pid {process.pid} on" in output
    assert "in flight " in output


def test_a_second_run_on_the_directory_is_refused(running: tuple[Popen[str], Path]) -> None:
    process, config = running
    code, output = noisesmith("run", config)
    assert code == 2, output
    assert f"error: {config.parent / 'run'}: is being written by pid {process.pid} on {socket.gethostname()}" in output


def test_rays_prometheus_endpoint_has_the_runs_figures(running: tuple[Popen[str], Path], port: int) -> None:
    process, _ = running
    text = ""
    while process.poll() is None and not all(f"ray_noisesmith_{name}{{" in text for name in PROMETHEUS):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
    lines = [line for line in text.splitlines() if line.startswith("ray_noisesmith_")]
    assert any('outcome="written"' in line and 'run="test"' in line for line in lines), text
    assert any("busy_share{" in line and 'side="generators"' in line for line in lines), text
    assert any("queue_length{" in line and 'step="generate"' in line for line in lines), text


def test_nothing_listens_beyond_this_machine(running: tuple[Popen[str], Path]) -> None:
    process, _ = running
    root = psutil.Process(process.pid)
    listening = {
        (child.name(), connection.laddr.ip)
        for child in (root, *root.children(recursive=True))
        for connection in child.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert any(name == "gcs_server" for name, _ in listening)
    assert {address.removeprefix("::ffff:") for _, address in listening} <= {"127.0.0.1", "::1"}, listening


def test_a_run_that_has_lost_its_directory_ends_and_is_followed(running: tuple[Popen[str], Path]) -> None:
    process, config = running
    lock, stats = config.parent / "run" / ".lock", config.parent / "run" / "stats.json"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"id": "another"}))
    code, output = finish(process)
    assert code == 1, output
    assert f"this run may no longer write {config.parent / 'run'}: pid" in output
    assert json.loads(stats.read_text())["operations"]["state"] == "running", "it wrote no more"
    found = status(config)
    assert (found["state"], found["rows"]) == ("died", 100_000)
    successor = start("run", config)
    assert successor.stdout is not None
    for line in successor.stdout:
        if "starting Ray" in line:
            break
        assert f"from pid {process.pid} on {socket.gethostname()}, which has ended" in line
    os.kill(successor.pid, signal.SIGTERM)
    code, output = finish(successor)
    assert code in (130, 143, signal.SIGTERM), (
        output
    )  # before Ray starts, after it, and by Ray's own handler while it starts
    assert not (config.parent / "run" / ".lock").exists()
    assert status(config)["state"] in ("stopped", "died")
