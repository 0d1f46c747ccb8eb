"""Measures one cell: rounds of the product's own search at two small numbers of sampler steps, extrapolated to T.

Only the denoising depends on the steps, and it is linear in them: each step is one pass of the same model. Everything
else is taken as it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from noisesmith.pipeline.bench.gpu.timeline import (
    CANDIDATES,
    DECODE,
    DENOISING,
    SCORE,
    SCORER_GRADIENT,
    STAGES,
    TEXT,
    VAE_GRADIENT,
    Meter,
    Timeline,
    WatchedUse,
    watched,
)
from noisesmith.pipeline.bench.loop.reference import SequentialLoop
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.cost.measure import operations_counter
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.records import Row, row_id
from noisesmith.pipeline.search.loop import LoadedModels, make_images
from noisesmith.pipeline.search.row import RowSearch

SHORT, LONG = 2, 5  # sampler steps of the timed rounds
PROMPTS = "{} red cats and a blue bowl on a wooden table"
OTHER_PROMPTS = "{} green cars below a yellow bird"  # that no text encoder has seen
_REPEATS = 3
_ENOUGH_SECONDS = 10.0  # after which a cell's rounds are not repeated again


class OutOfTime(Exception):  # noqa: N818
    """The time of the whole benchmark is over."""


@dataclass(frozen=True)
class Measured:
    """What one cell took, at T sampler steps.

    Attributes:
        steps: T.
        repeats: rounds that were timed at each of the two numbers of steps.
        seconds: by stage, of a round of the whole batch.
        operations: floating point operations by stage, of the same round.
        text_seconds, text_operations: of the text encoding of a row's prompt, which its first image pays.
        transfer_seconds: of copying z_T, z_0 and the gradient between host and device, which is part of other stages.
        peaks: operations per second of a matrix product, by stage: in the type of the stage's model.
        peak_bytes: the most memory of the device that tensors held at once, weights included; ``None`` on a CPU.
        loop_seconds: of a round of the sequential loop with the same models; ``None`` where it was not measured.
    """

    steps: int
    repeats: int
    seconds: dict[str, float]
    operations: dict[str, float]
    text_seconds: float
    text_operations: float
    transfer_seconds: float
    peaks: dict[str, float]
    peak_bytes: int | None
    loop_seconds: float | None


@dataclass(frozen=True)
class Conditions:
    """What a measurement needs besides models.

    Attributes:
        peak: operations per second of a matrix product in a type of torch, by its name.
        check_time: raises :class:`OutOfTime` where no time is left.
    """

    device: str
    clock: Meter
    peak: Callable[[str], float]
    check_time: Callable[[], None]


def measure_cell(config: RunConfig, models: LoadedModels, at: Conditions, *, loop: bool) -> Measured:
    """Measure rounds of ``config`` with loaded models.

    Args:
        loop: whether the sequential loop is measured, too.

    Raises:
        OutOfTime: there is no time left.
        MemoryExhausted, RuntimeError: a batch does not fit.
        FloatingPointError: an image is unusable, so that a round would not be what is measured.
    """
    if at.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    sets = {steps: _Searches(_at_steps(config, steps), models, at, PROMPTS) for steps in (SHORT, LONG)}
    first = {}
    for steps, searches in sets.items():  # these also warm up what follows
        with operations_counter() as counter:
            first[steps] = searches.make(counter)
    fresh = _Searches(_at_steps(config, SHORT), models, at, OTHER_PROMPTS)
    text_seconds = fresh.make(at.clock)[TEXT]
    taken = _timed(sets, at)
    peak_bytes = torch.cuda.max_memory_allocated() if at.device == "cuda" else None
    operations = at_steps(first[SHORT], first[LONG], config.generators.steps)
    operations[TEXT] = 0 if _adapter(models).join_text is not None else first[SHORT][TEXT]
    medians = {steps: _medians(rounds) for steps, rounds in taken.items()}
    batch = config.generators.batch_size
    return Measured(
        steps=config.generators.steps,
        repeats=len(taken[SHORT]),
        seconds=at_steps(medians[SHORT], medians[LONG], config.generators.steps),
        operations=operations,
        text_seconds=text_seconds / batch,
        text_operations=first[SHORT][TEXT] / batch,
        transfer_seconds=_transfers(config, models, at),
        peaks=_peaks(config, models, at),
        peak_bytes=peak_bytes,
        loop_seconds=loop_seconds(config, models, at) if loop else None,
    )


def loop_seconds(config: RunConfig, models: LoadedModels, at: Conditions) -> float:
    """Seconds of a round of the sequential loop: one image with its gradient, and the choice of its noise."""
    row = _rows(PROMPTS, 1)[0]
    found = {}
    for steps in (SHORT, LONG):
        loop = SequentialLoop(models, _at_steps(config, steps))
        image = loop.make_image(row, loop.first_noise(row), gradient=True)
        taken = []
        for number in range(1, 1 + _REPEATS):
            at.check_time()
            began = at.clock()
            noise, _ = loop.next_noise(row, number, image)
            image = loop.make_image(row, noise, gradient=True)
            taken.append(at.clock() - began)
        found[steps] = median(taken)
    return extrapolated(found[SHORT], found[LONG], config.generators.steps)


def at_steps(short: Mapping[str, float], long: Mapping[str, float], steps: int) -> dict[str, float]:
    """What a round of ``steps`` sampler steps takes, by what rounds of SHORT and of LONG steps have taken."""
    found = {}
    for stage, value in short.items():
        other = long[stage]
        found[stage] = extrapolated(value, other, steps) if stage == DENOISING else (value + other) / 2
    return found


def extrapolated(short: float, long: float, steps: int) -> float:
    """The line through (SHORT, ``short``) and (LONG, ``long``) at ``steps``."""
    return short + (long - short) * (steps - SHORT) / (LONG - SHORT)


class _Searches:
    """A batch of searches whose rounds can be measured one by one. The first one makes the first images."""

    def __init__(self, config: RunConfig, models: LoadedModels, at: Conditions, prompt: str) -> None:
        self._config = config
        self._models = models
        self._at = at
        rows = _rows(prompt, config.generators.batch_size)
        self._searches = [RowSearch[Tensor](row, config) for row in rows]

    def make(self, meter: Meter) -> dict[str, float]:
        """One round of the whole batch: what ``meter`` counts, by stage.

        Raises:
            FloatingPointError: an image is unusable.
        """
        self._at.check_time()
        timeline = Timeline(meter)
        with watched(self._models, timeline) as models:
            timeline.switch(CANDIDATES)
            made = make_images(self._searches, self._config, models, WatchedUse(timeline))
            timeline.switch(None)
        in_one_batch = timeline.entered[DECODE] == len(models.groups)
        if made < len(self._searches) or not in_one_batch:
            raise FloatingPointError("an image is not of finite numbers, or of one flat colour")
        return timeline.spent()


def _timed(sets: Mapping[int, _Searches], at: Conditions) -> dict[int, list[dict[str, float]]]:
    """Rounds of each set in turns, until there are enough of them or they have taken long enough."""
    taken: dict[int, list[dict[str, float]]] = {steps: [] for steps in sets}
    began = at.clock()
    for _ in range(_REPEATS):
        for steps, searches in sets.items():
            taken[steps].append(searches.make(at.clock))
        if at.clock() - began >= _ENOUGH_SECONDS:
            break
    return taken


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {stage: median(one[stage] for one in rounds) for stage in STAGES}


def _transfers(config: RunConfig, models: LoadedModels, at: Conditions) -> float:
    """Seconds of the copies of a round, made alone: z_T up, z_0 down and up again, its gradient down."""
    generator = _adapter(models)
    batch = config.generators.batch_size
    dtype = getattr(torch, config.generators.dtype)
    noise = torch.randn(batch, *generator.spec.shape).to(dtype)
    latents = torch.randn(batch, *generator.spec.decoded).to(at.device, dtype)
    taken = []
    for _ in range(_REPEATS):
        began = at.clock()
        noise.to(at.device)
        original = latents.float().cpu()
        on_device = original.to(at.device, dtype)
        on_device.cpu()
        taken.append(at.clock() - began)
    return median(taken)


def _peaks(config: RunConfig, models: LoadedModels, at: Conditions) -> dict[str, float]:
    """Operations per second of a matrix product, by stage: in the type of the numbers that it computes with."""
    scorer = at.peak(config.panel[0].dtype)
    vae = at.peak(str(models.decoder.vae.dtype).removeprefix("torch."))
    peaks = dict.fromkeys(STAGES, at.peak(config.generators.dtype))
    return peaks | {DECODE: vae, VAE_GRADIENT: vae, SCORE: scorer, SCORER_GRADIENT: scorer}


def _at_steps(config: RunConfig, steps: int) -> RunConfig:
    return config.model_copy(update={"generators": config.generators.model_copy(update={"steps": steps})})


def _rows(prompt: str, rows: int) -> list[Row]:
    """Rows with prompts that differ."""
    prompts = [prompt.format(number) for number in range(2, 2 + rows)]
    return [Row(index, row_id(index, text), text) for index, text in enumerate(prompts)]


def _adapter(models: LoadedModels) -> Adapter:
    assert isinstance(models.generator, Adapter)  # what load_models loads
    return models.generator
