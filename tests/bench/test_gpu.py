"""What ``bench gpu`` says follows from what the models do: their operations, and a clock that they drive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from noisesmith.pipeline.bench.gpu.measure import LONG, PROMPTS, SHORT, Conditions, Measured, extrapolated, measure_cell
from noisesmith.pipeline.bench.gpu.peak import matmul_peak
from noisesmith.pipeline.bench.gpu.results import figures_of
from noisesmith.pipeline.bench.gpu.timeline import (
    CANDIDATES,
    DECODE,
    DENOISING,
    SCORE,
    SCORER_GRADIENT,
    STAGES,
    TEXT,
    VAE_GRADIENT,
    Timeline,
    WatchedUse,
    watched,
)
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.search.loop import LoadedModels, make_images
from noisesmith.pipeline.search.row import RowSearch
from tests.cost.test_cost import CPU_ATTENTION

BATCH = 2
T = 7
PEAK = 1e9


def config_of(sd: Path, llava: Path, **generators: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "generators": {"model": str(sd), "steps": T, "guidance_scale": 3.0, "batch_size": BATCH, **generators},
            "scorers": {"model": str(llava), "batch_size": BATCH},
            "optimizer": {"method": "noise_diffusion", "rounds": 100, "candidates": 4},
        }
    )


def conditions(clock: Callable[[], float], check_time: Callable[[], None] = lambda: None) -> Conditions:
    return Conditions("cpu", clock, lambda _: PEAK, check_time)


@pytest.fixture(scope="module")
def loaded(tiny_sd: Path, tiny_llava: Path) -> tuple[RunConfig, LoadedModels]:
    config = config_of(tiny_sd, tiny_llava)
    return config, load_models(config, "cpu")


def searches_of(config: RunConfig) -> list[RowSearch[Tensor]]:
    """Of prompts that are as long as those of a measurement."""
    prompts = [PROMPTS.format(index) for index in range(2, 2 + BATCH)]
    return [RowSearch(Row(index, f"0000000{index}-abcdef01", prompt), config) for index, prompt in enumerate(prompts)]


class CountedUse:
    """Adds up the operations of the models alone: the host multiplies candidates with the gradient, too."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self._counter = counter
        self.operations = 0

    def __enter__(self) -> None:
        self._before = self._counter.get_total_flops()

    def __exit__(self, *_: object) -> None:
        self.operations += self._counter.get_total_flops() - self._before


@pytest.mark.parametrize("scheduler", ["ddim", "pndm"])
def test_the_operations_are_those_that_torch_counts_in_whole_rounds(
    scheduler: str, tiny_sd: Path, tiny_llava: Path
) -> None:
    """Extrapolated from 2 and 5 steps, against a round and a text encoding at all T steps."""
    config = config_of(tiny_sd, tiny_llava, scheduler=scheduler)
    measured = measure_cell(config, load_models(config, "cpu"), conditions(lambda: 0.0), loop=False)
    models = load_models(config, "cpu")
    searches = searches_of(config)
    counts = []
    for _ in range(2):  # the first images, with their text, and a round
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            use = CountedUse(counter)
            make_images(searches, config, models, use)
        counts.append(use.operations)
    first, later = counts
    assert sum(measured.operations.values()) == later
    assert measured.text_operations * BATCH == first - later
    assert measured.operations[VAE_GRADIENT] > 0
    assert measured.operations[SCORER_GRADIENT] > 0


class DrivenClock:
    """A clock that moves when a model works, by so many seconds per pass."""

    def __init__(self) -> None:
        self.seconds = 0

    def __call__(self) -> float:
        return self.seconds

    def after(self, module: Any, seconds: int, *, backward: bool = False) -> Any:
        def move(*_: object) -> None:
            self.seconds += seconds

        return module.register_full_backward_hook(move) if backward else module.register_forward_hook(move)


@pytest.fixture
def clock(loaded: tuple[RunConfig, LoadedModels]) -> Iterator[DrivenClock]:
    _, models = loaded
    generator: Any = models.generator
    scorer: Any = models.groups[0].members[0].scorer
    driven = DrivenClock()
    hooks = [
        driven.after(generator.pipe.unet, 3),
        driven.after(generator.pipe.text_encoder, 7),
        driven.after(models.decoder.vae.decoder, 11),
        driven.after(models.decoder.vae.decoder, 13, backward=True),
        driven.after(scorer.model.model.language_model, 17),
        driven.after(scorer.model.model.language_model.layers[0], 19, backward=True),
    ]
    yield driven
    for hook in hooks:
        hook.remove()


def test_every_second_belongs_to_the_stage_that_took_it(
    loaded: tuple[RunConfig, LoadedModels], clock: DrivenClock
) -> None:
    config, models = loaded
    measured = measure_cell(config, models, conditions(clock), loop=True)
    expected = dict.fromkeys(STAGES, 0.0)
    expected |= {DENOISING: 3.0 * T, DECODE: 11.0, VAE_GRADIENT: 13.0, SCORE: 17.0, SCORER_GRADIENT: 19.0}
    assert measured.seconds == expected
    assert measured.text_seconds == 2 * 7  # the prompt and the empty one, for each row alone
    assert measured.loop_seconds == 3 * T + 11 + 13 + 17 + 19
    assert measured.peaks == dict.fromkeys(STAGES, PEAK)
    assert measured.peak_bytes is None


def test_what_is_extrapolated_lies_on_the_line_through_both_points() -> None:
    assert extrapolated(10 + 3 * SHORT, 10 + 3 * LONG, 50) == 10 + 3 * 50
    assert extrapolated(4.0, 4.0, 50) == 4.0


def test_a_watched_round_is_the_same_round_and_leaves_nothing_behind(loaded: tuple[RunConfig, LoadedModels]) -> None:
    config, models = loaded
    pipe = models.generator.pipe
    encode = pipe.encode_prompt
    plain, seen = searches_of(config), searches_of(config)
    timeline = Timeline(lambda: 0.0)
    for _ in range(2):
        make_images(plain, config, models)
        with watched(models, timeline) as reporting:
            make_images(seen, config, reporting, WatchedUse(timeline))
    for ours, theirs in zip(seen, plain, strict=True):
        assert ours.scores == theirs.scores
        assert ours.records == theirs.records
    assert "sample" not in vars(models.generator)
    assert pipe.encode_prompt is encode


def test_a_round_with_an_unusable_image_is_not_taken_for_a_measurement(
    loaded: tuple[RunConfig, LoadedModels],
) -> None:
    """A search makes such a batch again, row by row, which would be timed instead."""
    config, models = loaded
    vae = models.decoder.vae
    black = vae.decoder.register_forward_hook(lambda _, __, pixels: 0 * pixels)
    try:
        with pytest.raises(ArithmeticError, match="one flat colour"):
            measure_cell(config, models, conditions(lambda: 0.0), loop=False)
    finally:
        black.remove()


def test_the_figures_follow_from_what_was_measured() -> None:
    seconds = dict.fromkeys(STAGES, 0.0) | {DENOISING: 6.0, SCORE: 2.0}
    operations = dict.fromkeys(STAGES, 0.0) | {DENOISING: 30.0, SCORE: 4.0}
    peaks = dict.fromkeys(STAGES, 10.0) | {SCORE: 4.0}
    measured = Measured(T, 3, seconds, operations, 0.1, 1.0, 0.0, peaks, None, None)
    figures = figures_of(measured, 4, loop_seconds=5.0)
    assert (figures.round_seconds, figures.row_seconds) == (8.0, 2.0)
    assert figures.roofline == (30 / 10 + 4 / 4) / 8
    assert figures.shares[DENOISING] == 0.75
    assert figures.shares[CANDIDATES] == figures.shares[TEXT] == 0
    assert figures.faster == 5.0 / 2.0
    assert figures_of(measured, 4, None).faster is None


def test_the_peak_is_the_best_rate_of_a_matrix_product() -> None:
    """Each product takes 2⁻⁶ s by this clock until sides of 1024, and 2⁻⁵ s there, which is enough."""
    sides: list[int] = []
    readings = [0.0]

    def clock() -> float:
        reads = len(readings) - 1
        side = 256 * 2 ** (reads // 10)
        sides.append(side)
        readings.append(readings[-1] + (2.0**-6 if side < 1024 else 2.0**-5))
        return readings[-1]

    assert matmul_peak(torch.float32, "cpu", clock) == 2 * 1024**3 * 2**5
    assert max(sides) == 1024
