"""``python -m tests.load.start``: how long ``noisesmith plan`` takes, and ``noisesmith run`` until its first batch.

Each ``--command`` is a noisesmith to measure, such as that of another checkout; they take turns, and all of them are
run once before anything is measured, so that the disk is warm. A run is stopped as soon as its models are loaded, when
the first batch goes to a worker. Next to the wall time there are CPU seconds, which other work on the machine changes
less: of ``plan`` those of its process, of ``run`` those of the driver, and those of the driver with all processes that
it has started by then.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

Sample = dict[str, float]
POLL_SECONDS = 0.02
LIMIT = 180.0  # seconds that a command may take
RUN_STARTED = "run_started"  # in the log of a run


def measure_plan(command: str, arguments: list[str]) -> Sample:
    """Seconds until all that is checked is printed, until the end, and of CPU."""
    before = _children_seconds()
    began = time.perf_counter()
    checked = 0.0
    # A folder that is not there, so that an earlier run of the config changes nothing.
    nowhere = f"output.dir={Path(tempfile.gettempdir()) / f'not-there-{os.getpid()}'}"
    process = subprocess.Popen([command, "plan", *arguments, nowhere], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("at most"):
            checked = time.perf_counter() - began
    if process.wait(LIMIT):
        raise RuntimeError(f"{command} plan ended with {process.returncode}")
    whole = time.perf_counter() - began
    return {"plan_checked_s": checked, "plan_s": whole, "plan_cpu_s": _children_seconds() - before}


def measure_run(command: str, arguments: list[str]) -> Sample:
    """Seconds until the first batch, and the CPU seconds of all processes by then."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        began = time.perf_counter()
        process = psutil.Popen(
            [command, "run", *arguments, "--out", str(run_dir)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _await_first_batch(process, run_dir / "logs" / "run.jsonl")
            waited = time.perf_counter() - began
            driver = _seconds(process)
            started = sum(_seconds(child) for child in process.children(recursive=True))
        finally:
            _stop(process)
    return {"run_s": waited, "run_driver_cpu_s": driver, "run_all_cpu_s": driver + started}


def _await_first_batch(process: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(FileNotFoundError):
            events = [json.loads(line)["event"] for line in log.read_text().splitlines() if line.endswith("}")]
            if RUN_STARTED in events:
                return
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"{log.parent.parent}: no batch was sent within {LIMIT:g} seconds")


def _stop(process: psutil.Popen) -> None:
    """End a run at once: the second signal does."""
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        with suppress(psutil.TimeoutExpired):
            process.wait(1)


def _seconds(process: psutil.Process) -> float:
    """CPU time of a process that may have ended."""
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _children_seconds() -> float:
    """CPU time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", action="append", help="a noisesmith to measure; this checkout's by default")
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["plan", "run"])
    given = parser.parse_args()
    commands: list[str] = given.command or [str(Path(sys.executable).parent / "noisesmith")]
    kinds = [measure_plan, measure_run]
    if given.only:
        kinds = [measure_plan] if given.only == "plan" else [measure_run]
    samples: dict[str, list[Sample]] = {command: [] for command in commands}
    for repeat in range(given.repeats + 1):
        for command in commands if repeat % 2 else reversed(commands):
            sample: Sample = {}
            for kind in kinds:
                sample |= kind(command, [given.config])
            if repeat:  # the first one reads the disk
                samples[command].append(sample)
                print(command, {name: round(value, 2) for name, value in sample.items()}, flush=True)
    print(f"medians of {given.repeats} (lowest to highest); load average now {os.getloadavg()[0]:.1f}")
    for command, found in samples.items():
        for name in found[0]:
            values = sorted(sample[name] for sample in found)
            print(f"{command} {name}: {statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})")


if __name__ == "__main__":
    main()
