"""``python -m tests.load.calls``: the driver's CPU per call of 8 rows, with the real stages and trivial workers.

The workers return packs of SD 1.5's size without computing anything. What is measured is the CPU time of the whole
driver process, Ray's threads included, while rounds are made and no row is written yet, divided by the number of
generate and score calls.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from noisesmith.actors.driver import Driver
from noisesmith.actors.generator import GenerateOrder, GenerateReport, GeneratorInfo
from noisesmith.actors.packs import Position, pack_files
from noisesmith.actors.placement import cluster
from noisesmith.actors.pool import Loaded
from noisesmith.actors.scorer import ScoreReport, ScorerInfo
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.records import NoiseStats, Provenance
from noisesmith.pipeline.search.tasks import ImageRecord
from noisesmith.pipeline.telemetry.events import Event, Snapshot
from noisesmith.pipeline.telemetry.tally import Tally

SHAPE = (4, 64, 64)
ROW_VALUES = 4 * 64 * 64
BATCH = 8
PICTURE = b"0" * 1000
LIMIT_MS = 1.0
ROWS = 64
WARM_IMAGES = 4 * ROWS


@ray.remote(num_cpus=0)
class TrivialGenerator:
    def load(self) -> Loaded[GeneratorInfo]:
        return Loaded.here(GeneratorInfo("trivial", "0", LatentSpec(SHAPE, 512, 512)))

    @ray.method(num_returns=2)
    def generate(self, encoded: bytes, *packs: np.ndarray) -> Any:
        orders: list[GenerateOrder] = pickle.loads(encoded)
        rows = len(orders)
        record = ImageRecord(0.5, 1, NoiseStats(0.0, 1.0, 1.0, 0.0), "0" * 64, rows, 20.0)
        states = [Position(index * ROW_VALUES, (1, *SHAPE)) for index in range(rows)]
        latents = [Position((rows + index) * ROW_VALUES, SHAPE) for index in range(rows)]
        return GenerateReport(0.0, [record] * rows, states, latents), np.zeros(2 * rows * ROW_VALUES, np.float32)


@ray.remote(num_cpus=0)
class TrivialScorer:
    def load(self) -> Loaded[ScorerInfo]:
        return Loaded.here(ScorerInfo("trivial", "0"))

    @ray.method(num_returns=3)
    def score(self, encoded: bytes, *packs: np.ndarray) -> Any:
        tasks = [order.task for order in pickle.loads(encoded)]
        scores = [random.uniform(0, 0.99) for _ in tasks]
        pictures = [PICTURE if score > task.keep_above else None for task, score in zip(tasks, scores, strict=True)]
        packed, positions = pack_files(pictures)
        gradients = [Position(index * ROW_VALUES, SHAPE) for index in range(len(tasks))]
        report = ScoreReport(0.0, scores, gradients, positions)
        return report, np.zeros(len(tasks) * ROW_VALUES, np.float32), packed


@ray.remote(num_cpus=0)
class TrivialWriter:
    def load(self) -> Loaded[None]:
        return Loaded.here(None)

    def put(self, *arguments: object) -> list[int]:
        return []

    def finish(self) -> list[int]:
        return []


def start(actor_class: Any) -> Any:
    return actor_class.remote()


class TrivialWorkers:
    def generator(self) -> Any:
        return start(TrivialGenerator)

    def scorer(self) -> Any:
        return start(TrivialScorer)

    def writer(self, provenance: Provenance) -> Any:
        return start(TrivialWriter)


class Unlocked:
    """The part of a ``RunState`` that the driver uses."""

    run_dir = Path("/nowhere")
    done: range = range(0)

    def check_lock(self) -> None:
        return


class Meter:
    """The part of ``Telemetry`` that the driver uses; notes CPU time and images while all workers are at work."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.marks: list[tuple[float, int]] = []

    def emit(self, event: Event) -> None:
        self.tally.count(event)
        if isinstance(event, Snapshot) and event.images_done >= WARM_IMAGES and self.tally.rows == 0:
            self.marks.append((time.process_time(), event.images_done))


def measure(config: RunConfig, corpus: Corpus) -> float:
    """Milliseconds of the driver's CPU per call of 8 rows, in one run."""
    meter = Meter()
    state: Any = Unlocked()
    telemetry: Any = meter
    driver = Driver(config, corpus, state, telemetry, TrivialWorkers())
    driver.run()
    driver.close()
    first_cpu, first_images = meter.marks[0]
    last_cpu, last_images = meter.marks[-1]
    calls = 2 * (last_images - first_images) / BATCH
    return 1000 * (last_cpu - first_cpu) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("".join(f"a cat above red car number {row}\n" for row in range(ROWS)))
        side = {"batch_size": BATCH, "count": 2, "num_cpus": 0.1}
        config = RunConfig.model_validate(
            {
                "corpus": {"source": str(prompts)},
                "generators": side,
                "scorers": side,
                "optimizer": {"rounds": options.rounds},
            }
        )
        corpus = open_corpus(config)
        with cluster(config, print):
            measure(config, corpus)  # the first run pays for what is made once
            found = [measure(config, corpus) for _ in range(options.repeats)]
    median = statistics.median(found)
    figures = {"median_ms": round(median, 3), "least_ms": round(min(found), 3), "most_ms": round(max(found), 3)}
    print(json.dumps(figures | {"repeats": len(found), "limit_ms": LIMIT_MS, "within": median <= LIMIT_MS}))


if __name__ == "__main__":
    main()
