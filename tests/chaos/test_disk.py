"""A disk that is full while a run works: one sentence, nothing lost; the same command goes on once there is room."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import write_config

pytestmark = pytest.mark.chaos
ROWS = 12

# In a mount namespace of its own, so that a small disk can be mounted without leave.
SCRIPT = """
import json, subprocess, sys
from pathlib import Path
from noisesmith.pipeline.sinks import read_rows, verify_run
from noisesmith.pipeline.sinks.staging import staged_rows
from tests.runs import noisesmith
config, disk, run = sys.argv[1:]
mount = lambda options: subprocess.run(["mount", "-t", "tmpfs", "-o", options, "disk", disk], check=True)
mount("size=96k")
full = noisesmith("run", config)
kept = len(staged_rows(Path(run), 0))
mount("remount,size=64m")
again = noisesmith("run", config)
rows = [row["id"] for row in read_rows(run, ["id"])]
print(json.dumps({"full": full, "kept": kept, "again": again, "rows": rows, "problems": verify_run(run)}))
"""


NAMESPACE = ["unshare", "--map-root-user", "--mount"]


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0,
    reason="this machine lets nobody mount a small disk of their own",
)
def test_a_full_disk_stops_a_run_and_costs_no_row(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    config = write_config(
        tmp_path, tiny_sd, tiny_llava,
        rows=ROWS, optimizer={"rounds": 1}, output={"dir": str(disk / "run"), "rows_per_shard": ROWS},
    )  # fmt: skip
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", SCRIPT, config, disk, disk / "run"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    code, output = found["full"]
    assert code == 1, output
    assert "the writer cannot write ([Errno 28] No space left on device" in output
    assert "what is written is safe, run the same command to resume" in output
    assert "Traceback" not in output
    assert 0 < found["kept"] < ROWS
    code, output = found["again"]
    assert code == 0, output
    assert f"resuming: {found['kept']} of {ROWS} rows are already done" in output
    assert [int(name[:8]) for name in found["rows"]] == list(range(ROWS))
    assert found["problems"] == []
