"""``noisesmith bench driver``: the real driver on a real cluster, with workers whose work is waiting.

Only the worker classes are replaced. Slots, queues, batches, references, retries and the order of calls are the
product's, and so are the sizes of the arrays in the object store: those of Stable Diffusion 1.5. One process holds many
simulated workers, so that a thousand GPUs fit on a laptop.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import psutil
from ray.exceptions import RayError

from noisesmith.actors.driver import Driver
from noisesmith.actors.inbox import Handler, Inbox
from noisesmith.actors.metrics import RayMetrics
from noisesmith.actors.packs import Reference
from noisesmith.actors.placement import cluster
from noisesmith.actors.retry import cluster_failure
from noisesmith.actors.simulated import SimulatedWorkers
from noisesmith.actors.surroundings import Surroundings, Worker
from noisesmith.pipeline.bench.driver import DriverOptions, Sample, Simulated
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.sinks import hold_run
from noisesmith.pipeline.telemetry.console import ConsoleProgress
from noisesmith.pipeline.telemetry.events import Event, ModelsLoading, RunEnded, RunStarted, Snapshot
from noisesmith.pipeline.telemetry.log import Telemetry
from noisesmith.pipeline.telemetry.tally import Tally

ROUNDS = 3  # at most; a score reaches TARGET_SCORE by chance, so that rows end at any round
TARGET_SCORE = 0.8
SAMPLE_SECONDS = 1.0  # between two looks at the driver's process
DAEMONS = ("raylet", "gcs_server")


class CountingInbox(Inbox):
    """An inbox that counts how often the driver looks for answers, and how many it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.wakeups = 0
        self.answers = 0

    def expect(self, reference: Reference, handler: Handler) -> None:
        super().expect(reference, handler)
        self.answers += 1

    def handle(self, seconds: float) -> None:
        super().handle(seconds)
        self.wakeups += 1


class Meter:
    """Listens to the driver's snapshots, and notes what its process and the others have used.

    Args:
        rows: of the corpus.
        hosts: ids of the processes that hold simulated workers.
    """

    def __init__(self, inbox: CountingInbox, rows: int, hosts: list[int]) -> None:
        self.samples: list[Sample] = []
        self.began = 0.0
        self._inbox = inbox
        self._rows = rows
        self._due = 0.0
        self._process = psutil.Process()
        self._daemons = _descendants(self._process, DAEMONS)
        self._hosts = [psutil.Process(pid) for pid in hosts]

    def emit(self, tally: Tally, event: Event) -> None:
        """Take one event, which ``tally`` has counted."""
        if isinstance(event, RunStarted):
            self.began = time.monotonic()
        elif isinstance(event, Snapshot) and time.monotonic() >= self._due:
            self._due = time.monotonic() + SAMPLE_SECONDS
            self.samples.append(self._sample(event, tally.ended))

    def _sample(self, snapshot: Snapshot, ended: int) -> Sample:
        return Sample(
            time=time.monotonic(),
            cpu_seconds=time.process_time(),
            daemon_seconds=sum(map(_cpu_seconds, self._daemons)),
            worker_seconds=sum(map(_cpu_seconds, self._hosts)),
            rss_bytes=self._process.memory_info().rss,
            wakeups=self._inbox.wakeups,
            answers=self._inbox.answers,
            images=snapshot.images_done,
            ended=ended,
            waiting=self._rows - ended - snapshot.in_flight,
            in_flight=snapshot.in_flight,
            queues=snapshot.queues,
        )


def simulate(options: DriverOptions, folder: Path, progress: ConsoleProgress) -> Simulated:
    """Drive one run of simulated workers, in a cluster of its own on this machine, to its end.

    Args:
        folder: an empty one, for the corpus and the run directory.

    Raises:
        UserError: there is no folder for Ray's files.
        RunError: Ray does not start, or cannot go on.
    """
    config = _config(options, folder)
    corpus = open_corpus(config)
    note = progress.note
    with cluster(config, note, _accept), hold_run(config, corpus, note) as state:
        inbox = CountingInbox()
        workers = SimulatedWorkers(options, state.header.layout)
        meter = Meter(inbox, corpus.size, workers.pids())
        listeners = (progress.emit, RayMetrics(config.name).emit, partial(meter.emit, progress.tally))
        telemetry = Telemetry(state.run_dir, {}, *listeners, tally=progress.tally)
        around = Surroundings(telemetry.emit, inbox, kill=_spare)
        driver = Driver(config, corpus, state, telemetry, workers, around)
        telemetry.emit(ModelsLoading())
        try:
            driver.run()
            ended = time.monotonic()
            work = workers.work()
        except RayError as error:  # of no call: the driver handles those
            raise cluster_failure(error) from error
        telemetry.emit(RunEnded("finished"))
    return Simulated(options, meter.began, ended, meter.samples, work)


def _config(options: DriverOptions, folder: Path) -> RunConfig:
    """A run of as many workers as the simulation has."""
    prompts = folder / "prompts.txt"
    lines = [f"a cat above a red car, number {row}\n" for row in range(options.corpus_rows)]
    prompts.write_text("".join(lines), encoding="utf-8")
    return RunConfig.model_validate(
        {
            "name": f"driver-{options.gpus}",
            "seed": options.seed,
            "corpus": {"source": str(prompts)},
            "generators": {"batch_size": options.batch_size, "count": options.generators},
            "scorers": {"batch_size": options.batch_size, "count": options.scorers},
            "optimizer": {"rounds": ROUNDS, "target_score": TARGET_SCORE},
            "output": {"dir": str(folder / "run")},
        }
    )


def _accept(has: Mapping[str, float], what: str) -> None:
    """Take any cluster: simulated GPUs need none of its resources."""


def _spare(worker: Worker) -> None:
    """Let a simulated worker be: its process holds others, and ends with the cluster."""


def _descendants(process: psutil.Process, names: Collection[str]) -> list[psutil.Process]:
    """The processes of these names that a process has started, directly or not."""
    return [child for child in process.children(recursive=True) if child.name() in names]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
