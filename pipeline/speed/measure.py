"""Times both sides of a run in this process, one after the other, as each of its actors would work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from noisesmith.pipeline.config import Actors, RunConfig
from noisesmith.pipeline.errors import MemoryExhausted, UserError
from noisesmith.pipeline.generators import load_generator
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.runtime import device_for, free_memory, quiet_libraries, threads_for
from noisesmith.pipeline.preflight import FoundModels
from noisesmith.pipeline.prompts import Corpus
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.search.scoring import load_scoring
from noisesmith.pipeline.speed.figures import generator_seconds, scorer_seconds
from noisesmith.pipeline.speed.ladder import BatchTiming, Memory, SideTiming, Trial, climb, sizes_up_to
from noisesmith.pipeline.speed.memory import GpuMemory, HostMemory
from noisesmith.pipeline.speed.placement import sides_of
from noisesmith.pipeline.speed.record import Speeds, device_name, speeds_of
from noisesmith.pipeline.speed.trials import GeneratorTrial, Sample, ScorerTrial

LARGEST = 256  # rows per call that are tried on a GPU
ROWS_READ = 2048  # of the corpus, among which rows for the batches are looked for


def calibrate(config: RunConfig, models: FoundModels, corpus: Corpus, note: Callable[[str], None]) -> Speeds:
    """Time the calls of both sides at growing batch sizes.

    Each side is loaded alone, so that its memory is that of its actor. A side on the CPU is tried up to its configured
    batch size.

    Args:
        note: called with one sentence before each side is loaded.

    Raises:
        UserError: not even one row fits into the memory of a side.
        RunError: an image is unusable.
    """
    quiet_libraries()
    note(f"timing generators on {device_name(config.generators)}")
    timing, samples = _time_generator(config, models, corpus)
    scorers = {}
    for index, (placed, *_) in enumerate(config.groups):
        note(f"timing {placed.section} on {device_name(placed)}")
        scorers[placed.section] = _time_scorer(config, index, samples)
    return speeds_of(config, models, timing, scorers)


def check_measurable(config: RunConfig) -> None:
    """Refuse to measure on another kind of device than that of the run.

    Raises:
        UserError: a side is to work on a GPU, and there is none here.
    """
    for name, side in sides_of(config).items():
        if device_for(side.num_gpus) == "cpu" and side.num_gpus > 0:
            raise UserError(
                f"{name}.num_gpus: is {side.num_gpus:g}, and this machine has no GPU to measure on; "
                "run plan --calibrate on a machine with a GPU of the run"
            )


def rows_of_one_size(corpus: Corpus, models: FoundModels) -> list[Row]:
    """The first rows of a corpus that have the largest images among them."""
    rows = list(islice(corpus.rows(), ROWS_READ))

    def pixels(row: Row) -> int:
        spec = models.generator.spec_of(row.resolution)
        return spec.width * spec.height

    largest = max(map(pixels, rows))
    resolution = next(row.resolution for row in rows if pixels(row) == largest)
    return [row for row in rows if row.resolution == resolution]


def _time_generator(config: RunConfig, models: FoundModels, corpus: Corpus) -> tuple[SideTiming, Sequence[Sample]]:
    side = config.generators
    with _threads(side):
        generator = load_generator(models.generator, device_for(side.num_gpus))
        trial = GeneratorTrial(config, generator, rows_of_one_size(corpus, models))
        timing = _climb(trial, side, "generators", lambda timed: generator_seconds(config, timed))
    return timing, trial.samples


def _time_scorer(config: RunConfig, index: int, samples: Sequence[Sample]) -> SideTiming:
    side = config.groups[index][0]
    with _threads(side):
        held = load_scoring(config, index, device_for(side.num_gpus))
        trial = ScorerTrial(held, samples, renders=index == 0)
        return _climb(trial, side, side.section, lambda timed: scorer_seconds(config, timed))


def _climb(trial: Trial, side: Actors, section: str, seconds_per_row: Callable[[BatchTiming], float]) -> SideTiming:
    on_gpu = device_for(side.num_gpus) == "cuda"
    memory: Memory = GpuMemory(side.num_gpus) if on_gpu else HostMemory()
    sizes = sizes_up_to(LARGEST if on_gpu else side.batch_size)
    try:
        return climb(trial, memory, sizes, seconds_per_row, wanted=side.batch_size)
    except MemoryExhausted as error:
        raise UserError(f"{section}: {error}; choose a smaller model, dtype or image size") from error


@contextmanager
def _threads(side: Actors) -> Iterator[None]:
    """Give torch as many threads as an actor of the side has, and the memory that the side before has left."""
    free_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads_for(side.num_cpus))
    try:
        yield
    finally:
        torch.set_num_threads(before)
