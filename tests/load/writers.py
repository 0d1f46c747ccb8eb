"""``python -m tests.load.writers``: rows per second, and CPU per row, that 1, 2, 4 and 8 writers write.

The real driver and the real writers write PNG pairs in both formats, to a local disk and to an S3 server that waits 30
ms before it answers a request. Generators and scorers answer at once, so nothing but writing takes time. The CPU time
of the writers' processes, of the driver and of the S3 server is measured, as is the number of requests.
``cores_for_400`` is how many cores the writers need for 400 rows per second: on a machine with fewer cores than
writers, this says how far they scale.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import ray

from noisesmith.actors.driver import Driver
from noisesmith.actors.packs import pack_files
from noisesmith.actors.placement import cluster
from noisesmith.actors.scorer import RenderReport
from noisesmith.actors.workers import LoadedActors, RayWorkers
from noisesmith.pipeline.bench.loop.figures import Spread
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.sinks import hold_run
from noisesmith.pipeline.telemetry.events import Event, RowWritten
from noisesmith.pipeline.telemetry.tally import Tally
from tests.chaos.killing import actor_processes
from tests.load.calls import Indifferent, TrivialWorkers

PICTURES = 4
GOAL = 400  # rows per second
EMPTY = "be empty"  # to the S3 server


def picture(seed: int, size: int) -> bytes:
    """A PNG file of smooth colours with some grain, whose size is that of a photo's."""
    draw = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((size, size), PIL.Image.Resampling.BICUBIC), np.float32)
    grained = smooth + draw.normal(0, 2.5, smooth.shape)
    buffer = io.BytesIO()
    PIL.Image.fromarray(grained.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@ray.remote(num_cpus=0)
class PictureScorer(Indifferent):
    """Renders the same few pictures for all rows."""

    def __init__(self, size: int) -> None:
        self._pictures = [picture(seed, size) for seed in range(PICTURES)]

    @ray.method(num_returns=2)
    def render(self, encoded: bytes, *packs: np.ndarray) -> Any:
        files = []
        for row, _ in enumerate(pickle.loads(encoded)):
            files += [self._pictures[row % PICTURES], self._pictures[(row + 1) % PICTURES]]
        packed, positions = pack_files(files)
        pairs = [positions[at : at + 2] for at in range(0, len(files), 2)]
        return RenderReport(0.0, pairs, [{} for _ in pairs]), packed


class WritingWorkers(TrivialWorkers):
    """Trivial models, and the writers of a run."""

    def __init__(self, real: RayWorkers, size: int) -> None:
        self._real = real
        self._size = size

    def scorer(self, group: int) -> Any:
        actor_class: Any = PictureScorer
        return actor_class.remote(self._size)

    def writer(self) -> Any:
        return self._real.writer()


class Meter:
    """The part of ``Telemetry`` that the driver uses; notes when the first rows are written."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.began: tuple[float, float, float, int] | None = None

    def emit(self, event: Event) -> None:
        self.tally.count(event)
        if self.began is None and isinstance(event, RowWritten):
            self.began = (time.monotonic(), writers_cpu(), time.process_time(), self.tally.rows)


def writers_cpu() -> float:
    """Seconds of CPU that all writers have taken."""
    times = [process.cpu_times() for process in actor_processes("writer")]
    return sum(taken.user + taken.system for taken in times)


def measure(config: RunConfig, size: int) -> dict[str, float]:
    """Write one run; returns rows per second, and ms of CPU per row."""
    corpus = open_corpus(config)
    with hold_run(config, corpus, print) as state:
        meter: Any = Meter()
        workers = WritingWorkers(RayWorkers(config, corpus, state, LoadedActors()), size)
        driver = Driver(config, corpus, state, meter, workers)
        try:
            driver.run()
            began, writing, driving, before = meter.began
            seconds = time.monotonic() - began
            rows = meter.tally.rows - before
            per_row = (writers_cpu() - writing) / rows
            driver_per_row = (time.process_time() - driving) / rows
        finally:
            driver.close()
    return {
        "rows_per_second": round(rows / seconds, 1),
        "writer_cpu_ms_per_row": round(1000 * per_row, 2),
        "driver_cpu_ms_per_row": round(1000 * driver_per_row, 2),
        "cores_for_400": round(GOAL * per_row, 1),
    }


def serve(latency: float, pipe: Connection) -> None:
    """An S3 server in a process of its own; answers each message with its requests and its CPU seconds so far.

    On the order ``EMPTY`` it first deletes what it holds.
    """
    from tests.s3 import S3

    server = S3()
    server.make_bucket("bucket")
    requests = 0

    def wait(method: str, path: str) -> None:
        nonlocal requests
        requests += 1
        time.sleep(latency)

    server.fault = wait
    pipe.send(server.url)
    while (order := pipe.recv()) is not None:
        if order == EMPTY:
            server.fault = None
            server.empty("bucket")
            server.fault = wait
        pipe.send((requests, time.process_time()))


@contextmanager
def s3_server(latency: float) -> Iterator[Connection]:
    """Serve S3 while the block runs, with credentials in the environment."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(latency, theirs))
    process.start()
    os.environ["AWS_ENDPOINT_URL"] = ours.recv()
    try:
        yield ours
    finally:
        ours.send(None)
        process.join()


def spent(server: Connection, message: str = "how much?") -> tuple[int, float]:
    """Requests to the server and CPU seconds of it since it started; with :data:`EMPTY` it deletes what it holds."""
    server.send(message)
    requests: int
    seconds: float
    requests, seconds = server.recv()
    return requests, seconds


def settings(folder: Path, place: str, writers: int, options: argparse.Namespace) -> RunConfig:
    """The config of one run."""
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"a cat above red car number {row}\n" for row in range(options.rows)))
    side = {"batch_size": 8, "num_cpus": 0.1}
    return RunConfig.model_validate(
        {
            "corpus": {"source": str(prompts)},
            "generators": side,
            "scorers": side,
            "optimizer": {"rounds": 1},
            "writers": {"count": writers, "num_cpus": 0},
            "rows_in_flight": 64 + 16 * writers,
            "output": {"dir": f"{place}/run-{writers}", "rows_per_shard": options.rows_per_shard},
        }
    )


def spread(repeats: list[dict[str, float]]) -> dict[str, list[float]]:
    """Median, lowest and highest of each figure."""
    return {name: [*astuple(Spread.of([figures[name] for figures in repeats]))] for name in repeats[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rows-per-shard", type=int, default=100)
    parser.add_argument("--size", type=int, default=512, help="side of the pictures in pixels")
    parser.add_argument("--writers", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=5, help="each figure is printed as median, lowest and highest")
    parser.add_argument("--places", nargs="*", default=["disk", "s3"])
    parser.add_argument("--latency", type=float, default=0.03, help="seconds before the S3 server answers")
    parser.add_argument("--folder", help="where the disk's runs are written; TMPDIR when absent")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # the workers import this module
    with tempfile.TemporaryDirectory(dir=options.folder) as name, s3_server(options.latency) as server:
        folder = Path(name)
        with cluster(settings(folder, name, 1, options), print):
            for place in options.places:
                location = name if place == "disk" else "s3://bucket"
                found: dict[int, list[dict[str, float]]] = {writers: [] for writers in options.writers}
                for repeat in range(options.repeats):  # the numbers of writers take turns
                    for writers in options.writers:
                        before = spent(server)
                        config = settings(folder, f"{location}/{repeat}", writers, options)
                        figures = measure(config, options.size)
                        if place == "s3":
                            requests, seconds = (now - then for now, then in zip(spent(server), before, strict=True))
                            figures["requests_per_row"] = round(requests / options.rows, 2)
                            figures["server_cpu_ms_per_row"] = round(1000 * seconds / options.rows, 2)
                            spent(server, EMPTY)
                        found[writers].append(figures)
                        if place == "disk":
                            shutil.rmtree(config.run_dir)
                for writers, repeats in found.items():
                    print(json.dumps({"place": place, "writers": writers, **spread(repeats)}), flush=True)


if __name__ == "__main__":
    main()
