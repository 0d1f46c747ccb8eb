"""Signals to the driver, then the same command again: every row once, nothing lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from noisesmith.pipeline.sinks import read_rows, verify_run
from tests.chaos.killing import await_rows
from tests.runs import await_line, finish, noisesmith, start, write_config

pytestmark = pytest.mark.chaos
ROWS = 16


def _check_whole(run_dir: Path) -> None:
    ids = [row["id"] for row in read_rows(run_dir, ["id"])]
    assert [int(row_id[:8]) for row_id in ids] == list(range(ROWS))
    assert verify_run(run_dir) == []


def test_ctrl_c_finishes_what_is_in_flight_and_resumes(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """The signal goes to the whole process group, as a terminal sends it."""
    config = write_config(tmp_path, tiny_sd, tiny_llava, rows=ROWS, rows_in_flight=4)
    process = start("run", config)
    await_rows(process, tmp_path / "run", 1)
    os.killpg(process.pid, signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert "finishing the rows in flight" in output
    assert "resume" in output
    done = len(list(read_rows(tmp_path / "run", ["id"])))
    assert done < ROWS
    code, output = noisesmith("run", config)
    assert code == 0, output
    _check_whole(tmp_path / "run")


def test_sigterm_leaves_what_does_not_end_in_its_grace(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    """As when a scheduler takes a spot machine away: durable rows stay, rows in flight are repeated."""
    endless = {"optimizer": {"rounds": 100_000}, "faults": {"grace_seconds": 1}}
    config = write_config(tmp_path, tiny_sd, tiny_llava, rows=4, **endless)
    process = start("run", config)
    await_line(process, "images ")
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 128 + signal.SIGTERM, output
    assert "finishing the rows in flight for at most 1 seconds" in output
    assert "stopped; run the same command to resume" in output
    assert noisesmith("verify", tmp_path / "run")[1].count("\n") == 2, "it lacks its shard, and nothing is wrong"


@pytest.mark.parametrize("started", ["the command", "Ray"])
def test_sigterm_before_the_first_row_is_a_sentence(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, started: str
) -> None:
    process = start("run", write_config(tmp_path, tiny_sd, tiny_llava))
    await_line(process, "starting Ray")
    while started == "Ray" and not any(child.name() == "raylet" for child in psutil.Process(process.pid).children()):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 128 + signal.SIGTERM, output
    assert output.endswith("stopped at once; run the same command to resume\n")


def test_a_second_ctrl_c_stops_at_once_and_resumes(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    config = write_config(tmp_path, tiny_sd, tiny_llava, rows=ROWS, optimizer={"rounds": 400})
    process = start("run", config)
    await_line(process, "images ")
    os.kill(process.pid, signal.SIGINT)
    await_line(process, "stopping: finishing the rows")
    os.kill(process.pid, signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert "stopped at once" in output
    code, output = noisesmith("run", config, "optimizer.rounds=400", "rows_in_flight=16", "optimizer.target_score=1e-9")
    assert code == 2, "a changed search must be refused"
    assert "optimizer.target_score" in output
