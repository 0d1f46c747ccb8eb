"""SIGKILL of the whole command while it extends a run: the same command goes on, and old files stay as they are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from noisesmith.pipeline.sinks import read_rows, verify_run
from noisesmith.pipeline.storage.files import sha256_of
from noisesmith.pipeline.telemetry.status import read_status
from tests.chaos.killing import await_rows
from tests.runs import PROMPTS, finish, noisesmith, start, write_config

pytestmark = pytest.mark.chaos
ROWS = 4
MORE = 8


def test_a_killed_extension_is_resumed(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    code, output = noisesmith("run", write_config(tmp_path, tiny_sd, tiny_llava, rows=ROWS))
    assert code == 0, output
    run_dir = tmp_path / "run"
    finished = {path: sha256_of(path) for path in run_dir.glob("data/*")}
    more = tmp_path / "more.txt"
    more.write_text("".join(f"{prompt}\n" for prompt in PROMPTS * (MORE // len(PROMPTS))))
    command: list[str | Path] = ["extend", run_dir, f"corpus.source={more}", "rows_in_flight=2"]

    process = start(*command)
    await_rows(process, run_dir, ROWS + 2)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    status = read_status(run_dir)
    assert (status.state, status.rows) == ("died", ROWS + MORE)
    assert ROWS + 2 <= status.rows_done < ROWS + MORE

    code, output = noisesmith(*command)
    assert code == 0, output
    ids = [row["id"] for row in read_rows(run_dir, ["id"])]
    assert [int(row_id[:8]) for row_id in ids] == list(range(ROWS + MORE))
    assert {path: sha256_of(path) for path in finished} == finished
    assert verify_run(run_dir, range(ROWS + MORE)) == []
