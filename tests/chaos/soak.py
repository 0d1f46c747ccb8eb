"""``python -m tests.chaos.soak --minutes 120 --out docs/soak``: a long run of the built-in models under constant kills.

Every minute one generator, scorer or writer gets a SIGKILL. Rows per minute come from the run's own log; open files and
resident memory are those of the driver, of the actors and of Ray's own processes. Writes OUT.json and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from noisesmith.pipeline.sinks import read_rows, verify_run
from tests.chaos.killing import ACTORS, actor_processes, kill_one
from tests.runs import await_written_rows, finish, start, written_rows

SAMPLE = 10.0  # seconds between two looks at files and memory
GROUPS = ("driver", "actors", "ray")  # the processes looked at: ray is its daemons and idle workers


def soak(
    folder: Path,
    minutes: float,
    every: float,
    seed: int,
    overrides: dict[str, Any],
    least_kills: int = 0,
    least_shards: int = 0,
) -> dict[str, Any]:
    """Run for ``minutes`` of wall time and kill an actor ``every`` so many seconds.

    A kill waits until the run has written a row since the last one: where actors die faster than they start, no run
    can make progress.

    Args:
        overrides: sections of the config instead of the built-in models' and their settings.
        least_kills: go on after ``minutes`` until so many actors were killed.
        least_shards: go on after ``minutes`` until so many shards are committed.

    Returns:
        the kills, samples of files and memory, rows in each second from the first on, and what verify says.
    """
    config = folder / "soak.yaml"
    run_dir = folder / "run"
    settings = {
        "name": "soak",
        "corpus": {"source": "embedded/complex", "size": 200_000},
        "generators": {"steps": 12, "guidance_scale": 1.0, "batch_size": 8, "num_cpus": 0.75},
        "scorers": {"batch_size": 8, "num_cpus": 0.75},
        "optimizer": {"rounds": 4},
        "output": {"dir": str(run_dir), "rows_per_shard": 64},
    }
    config.write_text(yaml.safe_dump(settings | overrides))
    rng = random.Random(seed)
    kills: list[tuple[float, str]] = []
    samples: list[dict[str, Any]] = []
    output = (folder / "output.txt").open("w+")
    process = start("run", config, stdout=output)
    await_written_rows(process, run_dir)
    started = time.monotonic()
    written = 0  # rows at the last kill

    def under_way() -> bool:
        shards = len(list(run_dir.glob("data/*.parquet")))
        enough = len(kills) >= least_kills and shards >= least_shards
        return process.poll() is None and not (enough and time.monotonic() - started >= 60 * minutes)

    while under_way():
        elapsed = round(time.monotonic() - started, 1)
        samples.append({"second": elapsed, **_resources(process)})
        if elapsed >= every * (len(kills) + 1):
            await_written_rows(process, run_dir, written + 1)
            kind = rng.choice(list(ACTORS))
            if kill_one(kind, rng.choice):
                kills.append((elapsed, kind))
                written = written_rows(run_dir)
        _await_end(process, min(SAMPLE, every / 3))
    minutes = (time.monotonic() - started) / 60
    process.send_signal(signal.SIGINT)
    code, _ = finish(process, timeout=600)
    output.seek(0)
    assert code == 130, output.read()
    ids = [row["id"] for row in read_rows(run_dir, ["id"])]
    return {
        "minutes": minutes,
        "kill_every_seconds": every,
        "seed": seed,
        "kills": kills,
        "samples": samples,
        "rows_by_second": _rows_by_second(run_dir / "logs"),
        "committed_rows": len(ids),
        "doubled_ids": len(ids) - len(set(ids)),
        "problems": [problem for problem in verify_run(run_dir) if "not committed yet" not in problem],
        "dead_letters": sum(1 for path in (run_dir / "failed").glob("*") for _ in path.open()),
    }


def quarters(figures: dict[str, Any]) -> list[float]:
    """Rows per minute in each quarter of the time."""
    length = round(60 * figures["minutes"] / 4)
    rows = figures["rows_by_second"]
    return [round(60 * sum(rows[n * length : (n + 1) * length]) / length, 2) for n in range(4)]


def _await_end(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _resources(process: subprocess.Popen[str]) -> dict[str, float]:
    """Open files and resident MiB of the driver, of all actors of the moment and of Ray's own processes."""
    driver = psutil.Process(process.pid)
    actors = [actor for kind in ACTORS for actor in actor_processes(kind)]
    others = [child for child in driver.children(recursive=True) if child not in actors]
    found: dict[str, float] = {}
    for name, group in zip(GROUPS, ([driver], actors, others), strict=True):
        files, mib = 0, 0.0
        for member in group:
            try:
                files, mib = files + member.num_fds(), mib + member.memory_info().rss / 2**20
            except psutil.Error:
                continue
        found |= {f"{name}_files": files, f"{name}_mib": round(mib, 1)}
    return found


def _rows_by_second(logs: Path) -> list[int]:
    lines = [json.loads(line) for path in sorted(logs.glob("run.jsonl*")) for line in path.open()]
    times = sorted(datetime.fromisoformat(line["time"]).timestamp() for line in lines if line["event"] == "row_written")
    counts = Counter(int(when - times[0]) for when in times)
    return [counts[second] for second in range(max(counts) + 1)]


def plot(figures: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    rate, *below = figure.subplots(3, 1, sharex=True)
    whole = range(int(figures["minutes"]))
    rate.plot(whole, [sum(figures["rows_by_second"][60 * minute : 60 * (minute + 1)]) for minute in whole])
    rate.set(ylabel="rows per minute", ylim=(0, None), title=f"{len(figures['kills'])} kills")
    when = [sample["second"] / 60 for sample in figures["samples"]]
    for axes, unit, label in zip(below, ("mib", "files"), ("resident MiB", "open files"), strict=True):
        for group in GROUPS:
            axes.plot(when, [sample[f"{group}_{unit}"] for sample in figures["samples"]], label=group)
        axes.set(ylabel=label, ylim=(0, None))
    below[0].legend(frameon=False)
    below[1].set(xlabel="minutes")
    for axes in (rate, *below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--every", type=float, default=60, help="seconds between kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="path of the figures without .json and .png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(Path(folder), options.minutes, options.every, options.seed, {})
    by_quarter = quarters(figures)
    tail = figures["samples"][-max(1, len(figures["samples"]) // 4) :]
    head = figures["samples"][: max(1, len(figures["samples"]) // 4)]
    figures["summary"] = {
        "rows_per_minute_by_quarter": by_quarter,
        "last_to_first_quarter": round(by_quarter[-1] / by_quarter[0], 3),
        **{
            f"{name}_{when}_quarter": round(statistics.median(sample[name] for sample in part), 1)
            for name in (f"{group}_{unit}" for group in GROUPS for unit in ("files", "mib"))
            for when, part in (("first", head), ("last", tail))
        },
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures["summary"] | {name: figures[name] for name in ("committed_rows", "problems")}, indent=1))
    options.out.with_suffix(".json").write_text(json.dumps(figures) + "\n")
    plot(figures, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
