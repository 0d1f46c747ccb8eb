"""``python -m tests.load.million --rows 1000000 --out docs/million``: what a large corpus costs a run's driver.

For each format: seconds until the first batch could be sent, in a new run and in one of which half of the shards are
committed, and the process's memory while it goes through all rows. Writes OUT.json and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.sinks import open_run
from noisesmith.pipeline.sinks.layout import ShardLayout
from noisesmith.pipeline.sinks.manifest import Entry, append_entry
from tests.load.corpora import FORMATS, write_corpus

BATCH = 16
SHARD = 1000
POINTS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True, help="path of the figures without .json and .png")
    options = parser.parse_args()
    figures: dict[str, Any] = {"rows": options.rows, "batch": BATCH, "rows_per_shard": SHARD, "formats": {}}
    with tempfile.TemporaryDirectory() as folder:
        for kind in FORMATS:
            path = Path(folder) / f"prompts.{kind}"
            write_corpus(path, options.rows)
            figures["formats"][kind] = one = {
                "bytes": path.stat().st_size,
                "new": _in_a_process(measure, path, options.rows),
                "half_committed": _in_a_process(resume, path, options.rows),
            }
            print(kind, {name: value for name, value in one["new"].items() if name != "memory"}, one["half_committed"])
    options.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(figures, options.out.with_suffix(".png"))


def measure(path: Path, rows: int) -> dict[str, Any]:
    """Time to the first batch, and resident MiB before and along the way, a pair [rows taken, MiB] each."""
    memory, started = [(0, resident())], (time.monotonic(), time.process_time())
    opened = open_corpus(_config(path))
    stream = opened.rows()
    ids = [row.id for row in islice(stream, BATCH)]
    first_batch = _since(started)
    assert [int(name.split("-")[0]) for name in ids] == list(range(BATCH))
    for row in stream:
        if (row.index + 1) % (rows // POINTS) == 0:
            memory.append((row.index + 1, resident()))
    assert row.index == rows - 1
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return {"first_batch": first_batch, "all_rows": _since(started), "peak_memory": peak, "memory": memory}


def resume(path: Path, rows: int) -> dict[str, float]:
    """Time to the first batch of a run of which the first half of the shards are committed."""
    config = _config(path)
    opened, plan = open_corpus(config), ShardLayout(rows, SHARD)
    half = plan.shards // 2
    open_run(config, opened)
    for shard in range(half):
        append_entry(config.run_dir, Entry(shard, SHARD, (), "", ()))
    started = (time.monotonic(), time.process_time())
    opened = open_corpus(config)
    state = open_run(config, opened)
    first = next(opened.rows(skip=state.done))
    assert first.index == half * SHARD
    return _since(started)


def resident() -> float:
    """This process's resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 1)


def plot(figures: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for kind, one in figures["formats"].items():
        rows, memory = zip(*one["new"]["memory"], strict=True)
        new, half = one["new"]["first_batch"]["cpu_seconds"], one["half_committed"]["cpu_seconds"]
        axes.plot(rows, memory, label=f"{kind}: first batch after {new:.1f} s, resuming from half after {half:.1f} s")
    axes.set(xlabel="rows taken", ylabel="resident memory (MiB)", ylim=(0, None), title="seconds of one core")
    axes.ticklabel_format(axis="x", style="plain")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=100)


def _config(path: Path) -> RunConfig:
    output = {"dir": f"{path}.run", "rows_per_shard": SHARD}
    return RunConfig.model_validate({"corpus": {"source": str(path)}, "output": output})


def _since(started: tuple[float, float]) -> dict[str, float]:
    return {
        "seconds": round(time.monotonic() - started[0], 2),
        "cpu_seconds": round(time.process_time() - started[1], 2),
    }


def _in_a_process(work: Any, *arguments: Any) -> Any:
    """A fresh one, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


if __name__ == "__main__":
    main()
