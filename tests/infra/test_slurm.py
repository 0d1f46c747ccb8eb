"""The Slurm script, run for real between stand-ins for Slurm, Ray and noisesmith that log how they were called."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import PATIENCE

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra/slurm.sbatch"
DIRECTIVES = dict(re.findall(r"(?m)^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text()))

LOGGED = 'echo "$(basename "$0") $*" >>"$LOG"\n'
STAND_INS = {
    # Runs what follows the options, here, as a child that ends with it.
    "srun": LOGGED + "while [[ $1 == --* ]]; do shift; done\ntrap 'kill $!' TERM\n\"$@\" & wait $!\n",
    "scontrol": LOGGED + 'if [[ $1 == show ]]; then for ((n = 0; n < NODES; n++)); do echo "node$n"; done; fi\n',
    "hostname": "echo 10.0.0.1 fe80::1\n",
    "ray": LOGGED + 'echo "auth $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}" >>"$LOG"\nexec sleep 60\n',
    # Counts the nodes alive: they are once Ray has been started for the head and, past one node, for the workers.
    "python": 'until (($(grep -c ^ray "$LOG") >= ($2 > 1) + 1)); do sleep 0.05; done\n',
    "noisesmith": LOGGED + 'exit "$STATUS"\n',
}
LONG = LOGGED + 'trap \'echo drained >>"$LOG"; exit 130\' TERM\necho running >>"$LOG"\nwhile :; do sleep 0.1; done\n'

Sbatch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def sbatch(tmp_path: Path) -> Sbatch:
    """Starts the script on ``nodes`` pretended nodes, in its own process group."""

    def start(
        *arguments: str, nodes: int = 2, status: int = 0, task: str = "", **stand_ins: str
    ) -> subprocess.Popen[str]:
        (tmp_path / "bin").mkdir()
        for name, body in (STAND_INS | stand_ins).items():
            (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}")
            (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "log").touch()
        environment = {"LOG": str(tmp_path / "log"), "NODES": str(nodes), "STATUS": str(status)}
        environment |= {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_CPUS_PER_TASK": "16"}
        environment |= {"SLURM_ARRAY_TASK_ID": task} if task else {}
        return subprocess.Popen(
            ["bash", SCRIPT, *arguments],
            env=os.environ | environment | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def test_shellcheck_reports_nothing() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run(
        [shellcheck, SCRIPT, ROOT / ".ci/run", ROOT / "tests" / "gpu" / "run"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_directives_come_first_and_leave_time_to_drain() -> None:
    lines = SCRIPT.read_text().splitlines()
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert max(number for number, line in enumerate(lines) if line.startswith("#SBATCH")) < commands[0]
    who, seconds = DIRECTIVES["signal"].split("@")
    assert who == "B:TERM"  # the batch shell alone, so that Ray outlives the driver
    (drain,) = re.findall(r"DRAIN_SECONDS=(\d+)", SCRIPT.read_text())
    assert int(drain) < int(seconds)
    assert DIRECTIVES["ntasks-per-node"] == "1"  # one Ray node per machine
    assert "requeue" in DIRECTIVES


def test_a_head_a_worker_on_each_other_node_then_the_run(sbatch: Sbatch, tmp_path: Path) -> None:
    process = sbatch("my config.yaml", "optimizer.rounds=10", nodes=3)
    assert process.wait(PATIENCE) == 0
    log = (tmp_path / "log").read_text()
    address = "10.0.0.1:23456"
    assert re.search(r"ray start --block --num-cpus=16 --head --node-ip-address=10.0.0.1 --port=23456 .*123456", log)
    assert f"ray start --block --num-cpus=16 --address={address}\n" in log
    assert re.search(r"srun .*--nodelist=node0 ray start .* --head", log)
    assert re.search(r"srun .*--nodes=2 --ntasks=2 --exclude=node0 ray start .* --address", log)
    assert "auth token 64\n" in log
    assert log.splitlines()[-1] == "noisesmith run my config.yaml optimizer.rounds=10 ray.address=auto"


def test_a_task_of_an_array_runs_its_own_partition(sbatch: Sbatch, tmp_path: Path) -> None:
    process = sbatch("config.yaml", "--partition", "{task}/8", "--out", "runs/{task} of {task}", nodes=1, task="3")
    assert process.wait(PATIENCE) == 0
    ran = (tmp_path / "log").read_text().splitlines()[-1]
    assert ran == "noisesmith run config.yaml --partition 3/8 --out runs/3 of 3 ray.address=auto"


def test_one_node_needs_no_worker(sbatch: Sbatch, tmp_path: Path) -> None:
    assert sbatch("config.yaml", nodes=1).wait(PATIENCE) == 0
    assert (tmp_path / "log").read_text().count("\nray start") == 1


def test_a_worker_that_does_not_start_ends_the_job_at_once(sbatch: Sbatch, tmp_path: Path) -> None:
    """Long before the time in which nodes may come up: the head still lives."""
    process = sbatch(
        "config.yaml",
        ray=LOGGED + "[[ $* == *--head* ]] || exit 1\nexec sleep 60\n",
        python='(($2 == 1)) && grep -q ^ray.*--head "$LOG"\n',
    )
    assert process.wait(PATIENCE) == 1
    assert process.stderr is not None
    assert "Ray has not come up on 2 nodes" in process.stderr.read()
    assert "noisesmith" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("status", [1, 2])
def test_a_failed_run_fails_the_job_and_is_not_queued_again(sbatch: Sbatch, tmp_path: Path, status: int) -> None:
    assert sbatch("config.yaml", status=status).wait(PATIENCE) == status
    assert "requeue" not in (tmp_path / "log").read_text()


def test_the_time_limit_drains_the_run_and_queues_it_again(sbatch: Sbatch, tmp_path: Path) -> None:
    process = sbatch("config.yaml", noisesmith=LONG)
    try:
        deadline = time.monotonic() + PATIENCE
        while "running" not in (tmp_path / "log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(PATIENCE) == 130
        assert (tmp_path / "log").read_text().splitlines()[-2:] == ["drained", "scontrol requeue 123456"]
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the timer of the second signal


def test_no_config_is_a_usage_error(sbatch: Sbatch) -> None:
    process = sbatch()
    assert process.wait(PATIENCE) == 2
    assert process.stderr is not None
    assert "usage: sbatch" in process.stderr.read()
