"""What follows from a simulation: busy shares against the ideal schedule, and what the driver costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from noisesmith.pipeline.bench.driver.records import Sample, Simulated, Work
from noisesmith.pipeline.errors import UserError

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Figures:
    """One simulation in its steady state, unless said otherwise.

    Attributes:
        seconds: length of the steady state; ``calls`` ended in it.
        busy: share of their time that the GPUs of the slower side worked, the one that had more to do per GPU.
        of_ideal: images that went through the slower side, as a share of what its GPUs could do with full batches only.
        generators_busy, scorers_busy: of the GPUs of either side.
        mean_batch: rows per generate or score call.
        images_per_gpu: images scored per second and GPU, in units of batch size / call seconds: 0.5 is ideal.
        whole_run: the least time that the slower side needs for all its work with full batches, as a share of the time
            from the first row's admission to the last row's end: the start, the steady state and the end.
        driver_ms_per_call: CPU time of the driver's process per generate or score call, in milliseconds.
        driver_cores: CPU time of the driver's process per second; ``daemons_cores`` that of Ray's raylet and GCS;
            ``workers_cores`` that of the processes with simulated workers.
        wakeups_per_row: how often the driver looked for answers, per row written; ``answers_per_row`` came.
        rss_first, rss_last: mean MiB of the driver's process in the first and the last quarter of the steady state.
    """

    seconds: float
    calls: int
    busy: float
    of_ideal: float
    generators_busy: float
    scorers_busy: float
    mean_batch: float
    images_per_gpu: float
    whole_run: float
    driver_ms_per_call: float
    driver_cores: float
    daemons_cores: float
    workers_cores: float
    wakeups_per_row: float
    answers_per_row: float
    rss_first: float
    rss_last: float


@dataclass(frozen=True)
class Side:
    """The calls of one side, and the number of GPUs that did them."""

    work: list[Work]
    gpus: int

    def busy(self, first: float, last: float) -> float:
        """The share of [first, last] in which the GPUs worked."""
        return sum(_overlap(call, first, last) for call in self.work) / (self.gpus * (last - first))

    def of_ideal(self, first: float, last: float, batch_size: int) -> float:
        """The share that they would have worked on full batches alone, for as many rows."""
        useful = sum(_overlap(call, first, last) * call.rows / batch_size for call in self.work)
        return useful / (self.gpus * (last - first))


def figures_of(simulated: Simulated) -> Figures:
    """The figures of a simulation.

    Raises:
        UserError: it had no steady state.
    """
    options = simulated.options
    steady = steady_state(simulated)
    first = steady[0]
    last = steady[-1]
    seconds = last.time - first.time
    generators = Side(_of(simulated, "generate"), options.generators)
    scorers = Side(_of(simulated, "score"), options.scorers)
    slower = _slower(simulated, generators, scorers, first.time, last.time)
    ended = [call for call in simulated.work if first.time < call.began + call.seconds <= last.time]
    rows = max(1, last.ended - first.ended)
    quarter = max(1, len(steady) // 4)
    ideal_images_per_gpu = options.batch_size / options.call_seconds
    least = sum(call.rows for call in slower.work) / options.batch_size * options.call_seconds / slower.gpus
    return Figures(
        seconds=seconds,
        calls=len(ended),
        busy=slower.busy(first.time, last.time),
        of_ideal=slower.of_ideal(first.time, last.time, options.batch_size),
        generators_busy=generators.busy(first.time, last.time),
        scorers_busy=scorers.busy(first.time, last.time),
        mean_batch=fmean(call.rows for call in ended),
        images_per_gpu=(last.images - first.images) / seconds / options.gpus / ideal_images_per_gpu,
        whole_run=least / (simulated.ended - simulated.began),
        driver_ms_per_call=1000 * (last.cpu_seconds - first.cpu_seconds) / len(ended),
        driver_cores=(last.cpu_seconds - first.cpu_seconds) / seconds,
        daemons_cores=(last.daemon_seconds - first.daemon_seconds) / seconds,
        workers_cores=(last.worker_seconds - first.worker_seconds) / seconds,
        wakeups_per_row=(last.wakeups - first.wakeups) / rows,
        answers_per_row=(last.answers - first.answers) / rows,
        rss_first=fmean(sample.rss_bytes for sample in steady[:quarter]) / MEBIBYTE,
        rss_last=fmean(sample.rss_bytes for sample in steady[-quarter:]) / MEBIBYTE,
    )


def steady_state(simulated: Simulated) -> Sequence[Sample]:
    """The samples between the start and the end of a simulation.

    At the start all rows are at the same stage; it is over once as many images have been scored as there are rows in
    flight. The end begins when no row is left to begin.

    Raises:
        UserError: there are none.
    """
    steady = [sample for sample in simulated.samples if sample.images >= sample.in_flight and sample.waiting > 0]
    if len(steady) < 2 or steady[-1].time - steady[0].time < simulated.options.call_seconds:
        raise UserError("--rows: the simulation ended before it had a steady state; give more rows")
    return steady


def _slower(simulated: Simulated, generators: Side, scorers: Side, first: float, last: float) -> Side:
    """The side that had more to do per GPU, which the other one waits for; one GPU is a side of its own."""
    if simulated.options.shares_gpu:
        return Side(simulated.work, 1)
    batch_size = simulated.options.batch_size
    return max(generators, scorers, key=lambda side: side.of_ideal(first, last, batch_size))


def _of(simulated: Simulated, stage: str) -> list[Work]:
    return [call for call in simulated.work if call.stage == stage]


def _overlap(call: Work, first: float, last: float) -> float:
    """Seconds of a call within [first, last]."""
    return max(0.0, min(last, call.began + call.seconds) - max(first, call.began))
