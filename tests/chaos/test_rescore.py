"""SIGKILL of a judge and of the whole command while a run is rescored: its side files are complete and unique."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from noisesmith.pipeline.sinks import read_rows, verify_run
from tests.actors.test_rescore import finished_run
from tests.chaos.killing import kill_one
from tests.runs import finish, noisesmith, start

pytestmark = pytest.mark.chaos
ROWS = 160
SHARDS = 40


def _await_files(process: Any, run_dir: Path, count: int) -> int:
    """Wait until so many side files are there, or the command has ended; returns how many are."""
    deadline = time.monotonic() + 300
    while True:
        files = len(list(run_dir.glob("side/llava/*.parquet")))
        if files >= count or process.poll() is not None:
            return files
        assert time.monotonic() < deadline, "the command judges nothing"
        time.sleep(0.02)


def test_kills_leave_side_files_complete_and_unique(tmp_path: Path, tiny_llava: Path) -> None:
    rng = random.Random(0)
    run = finished_run(tmp_path, ROWS)
    command: list[str | Path] = ["rescore", run.dir, "--judge", f"llava={tiny_llava}", "--batch-size", "1"]
    process = start(*command, "--count", "2", "--num-cpus", "0.5")
    assert _await_files(process, run.dir, 2) < SHARDS
    assert kill_one("judge", rng.choice)
    assert _await_files(process, run.dir, 8) < SHARDS, "the other judge goes on"
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert verify_run(run.dir) == []
    before = {path.name: path.read_bytes() for path in run.dir.glob("side/llava/train*")}
    code, output = noisesmith(*command)
    assert code == 0, output
    assert verify_run(run.dir) == []
    files = sorted(run.dir.glob("side/llava/*"))
    assert [path.name for path in files] == [f"train-{shard:05d}-of-{SHARDS:05d}.parquet" for shard in range(SHARDS)]
    committed = [path for path in files if before.get(path.name) == path.read_bytes()]
    assert len(committed) >= len(before) - 1, "what was committed is not made again"
    ids = []
    for path in files:
        ids += pq.read_table(path)["id"].to_pylist()
    assert ids == [row.id for row in run.rows]
    scores = [row["judge_llava"] for row in read_rows(run.dir, ["judge_llava"])]
    assert None not in scores
