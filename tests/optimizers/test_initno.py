"""InitNO: the bound on the noise, what is chosen, what it costs, and that attention gets better."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from torch import Tensor

from noisesmith.pipeline.config import GeneratorConfig, InitNoConfig
from noisesmith.pipeline.embedded import weights
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.noise import NoiseKey, kl_divergence, within_kl
from noisesmith.pipeline.optimizers.attention import attention_losses, find_tokens, pipeline_map_size
from noisesmith.pipeline.optimizers.initno import InitNo, initno

PROMPTS = ["a cat and a red car", "a dog", "a bowl on a car with a cat"]
SUBJECTS = [["cat", "car"], ["dog"], ["bowl", "car", "cat"]]
KEYS = [NoiseKey(0, name, 0) for name in "abc"]
SHAPE = (4, 8, 8)
GENERATOR = GeneratorConfig(steps=10, guidance_scale=5.0)
STEPS = GENERATOR.steps
NEVER = {"response_threshold": 1e-9, "conflict_threshold": 1e-9}  # no row reaches these, so every restart is run


@pytest.fixture(scope="module")
def pipe(tiny_sd: Path) -> Any:
    loaded = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    loaded.scheduler = DDIMScheduler.from_config(loaded.scheduler.config)
    for name, parameter in loaded.unet.named_parameters():
        if "to_q" in name or "to_k" in name:
            parameter.data *= 6  # as initialised, every place attends to everything alike
    return loaded


def _losses(
    pipe: Any, noise: Tensor, config: InitNoConfig, prompts: list[str] = PROMPTS, subjects: list[list[str]] = SUBJECTS
) -> tuple[Tensor, Tensor]:
    """Response and conflict of every row's noise at the first step, with DDIM's unit scale."""
    with torch.no_grad():
        text, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
        pipe.scheduler.set_timesteps(STEPS)
        size = pipeline_map_size(pipe, config, noise.shape)
        tokens = find_tokens(pipe.tokenizer, prompts, subjects)
        return attention_losses(pipe.unet, noise, pipe.scheduler.timesteps[0], text, tokens, size)


def _draws(restart: int) -> Tensor:
    return torch.stack([key.draw(restart, SHAPE) for key in KEYS])


def _prepare(pipe: Any, config: InitNoConfig) -> tuple[Tensor, list[float]]:
    return InitNo(config).optimise(pipe, GENERATOR, PROMPTS, SUBJECTS, KEYS, SHAPE, STEPS)


def test_every_step_of_every_row_is_within_the_bound(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    divergences: list[Tensor] = []

    def spy(mean: Tensor, log_variance: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        projected = within_kl(mean, log_variance, bound)
        divergences.append(kl_divergence(*projected))
        return projected

    monkeypatch.setattr("noisesmith.pipeline.optimizers.initno.within_kl", spy)
    _prepare(pipe, InitNoConfig(steps=6, restarts=1, learning_rate=0.1, **NEVER))
    assert len(divergences) == 6
    assert bool((torch.stack(divergences) <= 1e-3).all())
    assert float(torch.stack(divergences).max()) > 0.99e-3  # such steps would leave it


@pytest.mark.parametrize("bound", [1e-3, 1e-2])
def test_the_noise_stays_near_the_normal_it_was_drawn_from(pipe: Any, bound: float) -> None:
    """KL ≥ ½ mean(μ² + (σ − 1)²), as σ² − 1 − 2 ln σ ≥ (σ − 1)². So by Cauchy-Schwarz, for z = μ + σ⊙ε:
    mean (z − ε)² ≤ 2·KL·(1 + max ε²), and |mean z − mean ε| ≤ √(2·KL·(1 + mean ε²))."""
    config = InitNoConfig(steps=5, restarts=1, learning_rate=0.1, kl_bound=bound, **NEVER)
    noise, _ = _prepare(pipe, config)
    rounding = 2e-3  # float16 of values up to 4
    for z, drawn in zip(noise, _draws(0), strict=True):
        far = math.sqrt(2 * bound * (1 + float(drawn.square().max()))) + rounding
        assert float((z - drawn).square().mean().sqrt()) <= far
        assert abs(float(z.std(correction=0)) - float(drawn.std(correction=0))) <= far
        shift = math.sqrt(2 * bound * (1 + float(drawn.square().mean()))) + rounding
        assert abs(float(z.mean()) - float(drawn.mean())) <= shift
        assert not torch.equal(z, drawn)


def test_losses_fall_for_every_row(pipe: Any) -> None:
    config = InitNoConfig(steps=8, restarts=1, **NEVER)
    noise, _ = _prepare(pipe, config)
    before, after = (torch.stack([*_losses(pipe, z, config)]).sum(0) for z in (_draws(0), noise))
    assert bool((after < before - 0.01).all()), (before, after)


def test_losses_fall_on_the_built_in_model() -> None:
    loaded = StableDiffusionPipeline.from_pretrained(weights("sd"), safety_checker=None)
    loaded.scheduler = DDIMScheduler.from_config(loaded.scheduler.config)
    prompts, subjects = ["a cat and a red car", "a lion above a clock"], [["cat", "car"], ["lion", "clock"]]
    config, shape = InitNoConfig(steps=5, restarts=1, **NEVER), (16, 8, 8)
    noise, _ = InitNo(config).optimise(loaded, GENERATOR, prompts, subjects, KEYS[:2], shape, STEPS)
    drawn = torch.stack([key.draw(0, shape) for key in KEYS[:2]])
    before, after = (torch.stack([*_losses(loaded, z, config, prompts, subjects)]).sum(0) for z in (drawn, noise))
    assert bool((after < before - 0.02).all()), (before, after)


def test_a_batch_equals_its_rows_one_by_one(pipe: Any) -> None:
    low, middle, _ = _losses(pipe, _draws(0), InitNoConfig())[0].sort().values.tolist()
    config = InitNoConfig(steps=4, restarts=2, response_threshold=(low + middle) / 2, conflict_threshold=1.0)
    size = pipeline_map_size(pipe, config, SHAPE)

    def run(rows: list[int]) -> tuple[Tensor, list[float]]:
        """As ``prepare``, before the noises are rounded to float16."""
        prompts = [PROMPTS[row] for row in rows]
        tokens = find_tokens(pipe.tokenizer, prompts, [SUBJECTS[row] for row in rows])
        with torch.no_grad():
            text, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
        draws = lambda place, restart: KEYS[rows[place]].draw(restart, SHAPE)  # noqa: E731
        return initno(pipe.unet, pipe.scheduler, text, tokens, draws, size, config, 5.0)

    together, spent = run([0, 1, 2])
    alone = [run([row]) for row in range(3)]
    assert len(set(spent)) > 1  # rows finish at different times
    assert spent == [row[1][0] for row in alone]
    assert float((together - torch.cat([row[0] for row in alone])).abs().max()) < 1e-4


def test_the_same_call_twice_is_bit_identical(pipe: Any) -> None:
    config = InitNoConfig(steps=2, restarts=2)
    assert torch.equal(_prepare(pipe, config)[0], _prepare(pipe, config)[0])


def test_the_noise_is_what_float16_holds(pipe: Any) -> None:
    noise, _ = _prepare(pipe, InitNoConfig(steps=1, restarts=1))
    assert noise.dtype == torch.float32
    assert torch.equal(noise, noise.half().float())


def test_a_noise_that_meets_the_thresholds_costs_one_forward_and_stays(pipe: Any) -> None:
    noise, spent = _prepare(pipe, InitNoConfig(response_threshold=1.0, conflict_threshold=1.0))
    assert torch.equal(noise, _draws(0).half().float())
    assert spent == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(("guidance", "unit"), [(5.0, 0.5), (1.0, 1.0)])
def test_restarts_that_fail_cost_their_forwards_and_backwards(pipe: Any, guidance: float, unit: float) -> None:
    config = InitNoConfig(steps=3, restarts=2, **NEVER)
    sampling = GeneratorConfig(steps=10, guidance_scale=guidance)
    _, spent = InitNo(config).optimise(pipe, sampling, PROMPTS, SUBJECTS, KEYS, SHAPE, STEPS)
    assert spent == [2 * (3 * 3 + 1) * unit] * 3


def test_restarts_start_from_the_keys_draws_and_stop_at_the_first_that_is_good_enough(pipe: Any) -> None:
    still = InitNoConfig(steps=1, restarts=6, learning_rate=1e-9, conflict_threshold=1.0)  # draws alone decide
    responses = torch.stack([_losses(pipe, _draws(restart), still)[0] for restart in range(6)])
    threshold = float(responses.min(0).values.max()) + 1e-6  # every row has a draw that reaches it
    config = still.model_copy(update={"response_threshold": threshold})
    noise, spent = _prepare(pipe, config)
    for row in range(3):
        first = int((responses[:, row] <= threshold).nonzero()[0])
        torch.testing.assert_close(noise[row], _draws(first)[row].half().float(), rtol=0, atol=1e-3)
        assert spent[row] == first * (3 + 1) * 0.5 + 0.5


def test_without_a_good_one_the_smallest_sum_of_losses_is_taken(pipe: Any) -> None:
    config = InitNoConfig(steps=1, restarts=5, learning_rate=1e-9, **NEVER)
    sums = torch.stack([torch.stack([*_losses(pipe, _draws(restart), config)]).sum(0) for restart in range(5)])
    noise, _ = _prepare(pipe, config)
    for row, best in enumerate(sums.argmin(0).tolist()):
        torch.testing.assert_close(noise[row], _draws(best)[row].half().float(), rtol=0, atol=1e-3)


def test_a_row_without_subjects_keeps_its_first_draw(pipe: Any) -> None:
    noise, spent = InitNo(InitNoConfig()).optimise(
        pipe, GENERATOR, ["red", "a cat"], [[], ["cat"]], KEYS[:2], SHAPE, GENERATOR.steps
    )
    assert torch.equal(noise[0], _draws(0)[0].half().float())
    assert spent[0] == 0.0 < spent[1]


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_the_unet_sees_the_noise_as_the_scheduler_scales_it(tiny_sd: Path) -> None:
    loaded = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    loaded.scheduler = EulerDiscreteScheduler.from_config(loaded.scheduler.config)
    seen: list[Tensor] = []
    loaded.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    InitNo(InitNoConfig(steps=1, restarts=1, **NEVER)).optimise(
        loaded, GENERATOR, PROMPTS, SUBJECTS, KEYS, SHAPE, GENERATOR.steps
    )
    loaded.scheduler.set_timesteps(STEPS)
    sigma = float(loaded.scheduler.sigmas[0])
    expected = _draws(0) * float(loaded.scheduler.init_noise_sigma) / math.sqrt(sigma**2 + 1)
    torch.testing.assert_close(seen[0].detach(), expected)


def test_a_subject_that_the_prompt_lacks_is_refused(pipe: Any) -> None:
    with pytest.raises(UserError, match=r"corpus\.subjects: 'bowl'"):
        InitNo(InitNoConfig()).optimise(pipe, GENERATOR, ["a cat"], [["bowl"]], KEYS[:1], SHAPE, STEPS)


def test_half_precision_gives_a_noise_as_good(tiny_sd: Path, pipe: Any) -> None:
    loaded = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None, dtype=torch.bfloat16)
    loaded.unet.load_state_dict(pipe.unet.state_dict())
    loaded.scheduler = pipe.scheduler
    config = InitNoConfig(steps=8, restarts=1, **NEVER)
    noise, _ = _prepare(loaded, config)
    assert noise.dtype == torch.float32
    before, after = (torch.stack([*_losses(pipe, z, config)]).sum(0) for z in (_draws(0), noise))
    assert bool((after < before).all()), (before, after)
