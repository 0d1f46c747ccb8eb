"""``python -m tests.load.exports --rows 100000``: the memory and time of exports of a large run.

Makes a synthetic run of small pictures, exports it in every format in a process of its own, and prints the peak
resident memory of that process at a tenth of the rows and at all of them.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.export import ExportOptions, export
from noisesmith.pipeline.noise import NoiseKey, digest
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.records import NoiseStats, Provenance, Recipe, Result, Row
from noisesmith.pipeline.schema import schema_of, to_table
from noisesmith.pipeline.sinks import open_run
from noisesmith.pipeline.sinks.manifest import DataFile, Entry, append_entry, read_manifest
from noisesmith.pipeline.sinks.shards import parquet_file
from noisesmith.pipeline.telemetry.console import search_progress

PICTURES = 500  # of each kind; later rows have the same ones again
PROVENANCE = Provenance("noise_diffusion", "embedded", "1", "embedded", "1", "yes")
OPTIONS: dict[str, dict[str, Any]] = {
    "imagefolder": {"where": "score >= .1", "splits": {"val": 0.02}, "top_k": 1},
    "captions": {},
    "webdataset": {"image_format": "jpeg"},
    "dpo": {"margin": 0.01},
    "noise": {"noise_format": "safetensors"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=32, help="side of the pictures in pixels")
    parser.add_argument("--formats", nargs="*", default=list(OPTIONS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for rows in (options.rows // 10, options.rows):
            runs[rows] = write_run(Path(folder) / str(rows), rows, options.size)
        print(f"run of {options.rows:,} rows written")
        for name in options.formats:
            for rows, run_dir in runs.items():
                mib, seconds = _in_a_process(measure, run_dir, name)
                print(f"{name:<12} {rows:>9,} rows  {mib:7.1f} MiB at most  {seconds:6.1f} s", flush=True)


def write_run(folder: Path, rows: int, size: int, per_shard: int = 1000) -> Path:
    """Write a finished run shard by shard, without models and without staging."""
    folder.mkdir()
    corpus_file = folder / "prompts.txt"
    corpus_file.write_text("".join(f"prompt {n // 2}\n" for n in range(rows)))
    output = {"dir": str(folder / "run"), "rows_per_shard": per_shard}
    config = RunConfig.model_validate({"corpus": {"source": str(corpus_file)}, "output": output})
    corpus = open_corpus(config)
    open_run(config, corpus)
    header = read_manifest(config.run_dir).header
    schema = schema_of(header.columns, corpus.extra_schema)
    (config.run_dir / "data").mkdir(exist_ok=True)
    for shard in range(header.shards):
        indices = header.layout.rows(shard)
        shard_rows = list(corpus.rows(indices.start, indices.stop))
        path = config.run_dir / header.layout.data_file(shard, "parquet")
        with path.open("wb") as file, parquet_file(file, schema) as add:
            for row in shard_rows:
                add(_table(row, size, schema))
        ids = "".join(f"{row.id}\n" for row in shard_rows)
        data_file = DataFile(str(path.relative_to(config.run_dir)), path.stat().st_size, "", len(shard_rows))
        digest_of_ids = hashlib.sha256(ids.encode()).hexdigest()
        append_entry(config.run_dir, Entry(shard, len(shard_rows), (), digest_of_ids, (data_file,)))
    return config.run_dir


def _table(row: Row, size: int, schema: pa.Schema) -> pa.Table:
    key = NoiseKey(0, row.id, 0)
    shape = (4, 4, 4)
    result = Result(
        row=row,
        image=_png(row.index % PICTURES, size),
        image_initial=_png(PICTURES + row.index % PICTURES, size),
        width=size,
        height=size,
        scores=(0.05, row.index % 997 / 997),
        steps=(2, 2),
        evaluations=(2.0, 2.0),
        score=row.index % 997 / 997,
        rounds=1,
        stop_reason="rounds",
        judges={},
        seed=0,
        recipe=Recipe("noise_diffusion", 0, shape, (), (), (), 50, 2, 8, digest(key.draw(0, shape))),
        noise=NoiseStats(0.0, 1.0, 1.0, 0.0),
    )
    return to_table(result, PROVENANCE, schema)


@functools.cache
def _png(seed: int, size: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def measure(run_dir: Path, name: str) -> tuple[float, float]:
    """Export a run; returns the peak resident memory of this process in MiB, and seconds."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        export(run_dir, ExportOptions(to=name, out=Path(folder) / "out", **OPTIONS[name]), search_progress)
    # Linux counts what the parent had into a child's ru_maxrss; VmHWM is this process alone.
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024, time.monotonic() - started


def _in_a_process(work: Any, *arguments: Any) -> Any:
    """A fresh one, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


if __name__ == "__main__":
    main()
