"""``python -m tests.load.calls``: the driver's CPU per call of 8 rows, with the real stages and trivial workers.

The workers return packs of SD 1.5's size without computing anything. What is measured is the CPU time of the whole
driver process, Ray's threads included, while rounds are made and no row is written yet, divided by the number of
generate and score calls. The same number of bare Ray calls, which carry the same objects between the same workers while
nothing looks at them, gives the part of it that is Ray's own. The bytes per row and round are those of the orders that
the driver sends and of the reports that it gets, pickled; arrays stay in the object store.
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
from unittest import mock

import numpy as np
import ray

from noisesmith.actors import stages
from noisesmith.actors.driver import Driver
from noisesmith.actors.generator import GenerateOrder, GenerateReport, GeneratorInfo
from noisesmith.actors.inbox import Answer, Inbox
from noisesmith.actors.packs import Located, Position, Reference, encode, pack_files
from noisesmith.actors.placement import cluster
from noisesmith.actors.pool import Loaded
from noisesmith.actors.scorer import RenderReport, ScoreOrder, ScoreReport, ScorerInfo
from noisesmith.actors.stage import AnyCall, Stage
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.prompts import Corpus, open_corpus
from noisesmith.pipeline.records import NoiseStats
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.tasks import GenerateTask, ImageRecord, ScoreTask
from noisesmith.pipeline.sinks import Committer, DoneRows, Prepared, Staged
from noisesmith.pipeline.telemetry.events import Event, Snapshot
from noisesmith.pipeline.telemetry.tally import Tally
from tests.actors.world import PaperCommitter, header

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
        return Loaded.here(GeneratorInfo("trivial", "0", LatentSpec(SHAPE, 512, 512, SHAPE)))

    @ray.method(num_returns=2)
    def generate(self, encoded: bytes, *packs: np.ndarray) -> Any:
        orders: list[GenerateOrder] = pickle.loads(encoded)
        rows = len(orders)
        record = ImageRecord(0.5, 1, NoiseStats(0.0, 1.0, 1.0, 0.0), "0" * 64, rows, 20.0, SHAPE)
        states = [Position(index * ROW_VALUES, (1, *SHAPE)) for index in range(rows)]
        latents = [Position((rows + index) * ROW_VALUES, SHAPE) for index in range(rows)]
        return GenerateReport(0.0, [record] * rows, states, latents), np.zeros(2 * rows * ROW_VALUES, np.float32)


class Indifferent:
    """Scores at random."""

    def load(self) -> Loaded[ScorerInfo]:
        return Loaded.here(ScorerInfo(("trivial",), ("0",)))

    @ray.method(num_returns=2)
    def score(self, encoded: bytes, *packs: np.ndarray) -> Any:
        tasks = [order.task for order in pickle.loads(encoded)]
        opinions = []
        for index in range(len(tasks)):
            opinions.append(Opinion((-random.uniform(0.01, 10),), Position(index * ROW_VALUES, SHAPE)))
        return ScoreReport(0.0, opinions), np.zeros(len(tasks) * ROW_VALUES, np.float32)


@ray.remote(num_cpus=0)
class TrivialScorer(Indifferent):
    @ray.method(num_returns=2)
    def render(self, encoded: bytes, *packs: np.ndarray) -> Any:
        rows = len(pickle.loads(encoded))
        packed, positions = pack_files([PICTURE] * rows)
        return RenderReport(0.0, [[position, position] for position in positions], [{}] * rows), packed


@ray.remote(num_cpus=0)
class TrivialWriter:
    def load(self) -> Loaded[None]:
        return Loaded.here(None)

    def put(self, encoded: bytes, *packs: np.ndarray) -> Staged:
        _, orders = pickle.loads(encoded)
        return Staged(0, tuple(order.result.row.index for order in orders), "file")

    def prepare(self, shard: int, rows: dict[int, str]) -> Prepared:
        return Prepared(shard, tuple(rows), "", ())


def start(actor_class: Any) -> Any:
    return actor_class.remote()


class TrivialWorkers:
    def generator(self) -> Any:
        return start(TrivialGenerator)

    def scorer(self, group: int) -> Any:
        return start(TrivialScorer)

    def writer(self) -> Any:
        return start(TrivialWriter)


class Unlocked:
    """The part of a ``RunState`` that the driver uses."""

    run_dir = Path("/nowhere")
    done: range = range(0)

    def __init__(self, config: RunConfig) -> None:
        self.header = header(config, ROWS)

    def check_lock(self) -> None:
        return

    def committer(self) -> Committer:
        return PaperCommitter(self.run_dir, self.header, DoneRows(self.header.layout))


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
    state: Any = Unlocked(config)
    telemetry: Any = meter
    driver = Driver(config, corpus, state, telemetry, TrivialWorkers())
    driver.run()
    driver.close()
    first_cpu, first_images = meter.marks[0]
    last_cpu, last_images = meter.marks[-1]
    calls = 2 * (last_images - first_images) / BATCH
    return 1000 * (last_cpu - first_cpu) / calls


def measure_bytes(config: RunConfig, corpus: Corpus) -> dict[str, float]:
    """Bytes that leave and enter the driver, per row and round, in one run that is not timed."""
    sent: list[int] = []
    received: list[int] = []
    rows: list[int] = []
    succeeded = Stage.succeeded

    def encoded(orders: object) -> bytes:
        message = encode(orders)
        sent.append(len(message))
        return message

    def watched(stage: Any, call: AnyCall, report: Any) -> None:
        if call.stage.name in ("generate", "score"):
            received.append(len(pickle.dumps(report)))
            rows.append(len(call.rows))
        succeeded(stage, call, report)

    with mock.patch.object(stages, "encode", encoded), mock.patch.object(Stage, "succeeded", watched):
        measure(config, corpus)
    per_round = sum(rows) / 2  # a round is a generate call and a score call
    return {
        "bytes_sent_per_row": round(sum(sent) / per_round),
        "bytes_received_per_row": round(sum(received) / per_round),
    }


def measure_bare(calls: int) -> float:
    """Milliseconds of CPU per call that Ray itself needs: generate and score in turn, each given the other's pack."""
    generators = [start(TrivialGenerator) for _ in range(2)]
    scorers = [start(TrivialScorer) for _ in range(2)]
    task = GenerateTask("a cat", (), NoiseKey(0, "0", 0), 20)
    state = Located(0, Position(0, (1, *SHAPE)))
    generate = encode([GenerateOrder(task, state)] * BATCH)
    score = encode([ScoreOrder(ScoreTask("a cat", True), Located(0, Position(0, SHAPE)))] * BATCH)
    inbox = Inbox()
    finished: list[Answer] = []

    def round_trip(worker: int, packs: list[Reference]) -> None:
        """Generate from the packs of the score call before, then score, and so on."""
        report, made = generators[worker].generate.remote(generate, *packs)

        def generated(answer: Answer) -> None:
            finished.append(answer)
            report, *scored = scorers[worker].score.remote(score, made)
            inbox.expect(report, lambda answer: scored_it(answer, scored))

        def scored_it(answer: Answer, scored: list[Reference]) -> None:
            finished.append(answer)
            round_trip(worker, [made, scored[0]])

        inbox.expect(report, generated)

    for chain in range(ROWS // BATCH):
        round_trip(chain % 2, [])
    while len(finished) < calls // 10:
        inbox.handle(1.0)
    began = time.process_time()
    warm = len(finished)
    while len(finished) < warm + calls:
        inbox.handle(1.0)
    spent = time.process_time() - began
    for worker in [*generators, *scorers]:
        ray.kill(worker)
    return 1000 * spent / (len(finished) - warm)


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
            sizes = measure_bytes(config, corpus)  # the first run pays for what is made once
            found = []
            bare = []
            for _ in range(options.repeats):
                found.append(measure(config, corpus))
                bare.append(measure_bare(10 * options.rounds))
    median = statistics.median(found)
    figures = {"median_ms": round(median, 3), "least_ms": round(min(found), 3), "most_ms": round(max(found), 3)}
    figures |= {"bare_ray_median_ms": round(statistics.median(bare), 3)}
    figures |= {"bare_ray_least_ms": round(min(bare), 3), "bare_ray_most_ms": round(max(bare), 3)} | sizes
    print(json.dumps(figures | {"repeats": len(found), "limit_ms": LIMIT_MS, "within": median <= LIMIT_MS}))


if __name__ == "__main__":
    main()
