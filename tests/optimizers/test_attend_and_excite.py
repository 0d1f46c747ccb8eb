"""Attend-and-Excite against the library's plain sampling and its own Attend-and-Excite, and what it costs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionAttendAndExcitePipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

from noisesmith.pipeline.config import AttendAndExciteConfig, GeneratorConfig
from noisesmith.pipeline.embedded import weights
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.samplers import build_scheduler
from noisesmith.pipeline.optimizers.attend_and_excite import AttendAndExcite, Excitation, required_attention, step_sizes
from noisesmith.pipeline.optimizers.attention import (
    MapSize,
    RowTokens,
    attention_losses,
    find_tokens,
    pipeline_map_size,
)

PROMPTS = ["a cat and a red car", "a bowl on a car with a cat"]
SUBJECTS = [["cat", "car"], ["bowl", "car", "cat"]]
GENERATOR = GeneratorConfig(steps=6, guidance_scale=4.0, negative_prompt="blue dog")
STEPS = GENERATOR.steps
NO_UPDATE = AttendAndExciteConfig(until=0.01)


def _load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe


def _attentive(pipe: Any) -> Any:
    """With larger queries and keys: as initialised, every place attends to everything alike."""
    for name, parameter in pipe.unet.named_parameters():
        if "to_q" in name or "to_k" in name:
            parameter.data *= 6
    return pipe


@pytest.fixture(scope="module")
def pipe(tiny_sd: Path) -> Any:
    return _attentive(_load(tiny_sd))


@pytest.fixture(scope="module")
def embedded() -> Any:
    return _load(weights("sd"))


def _noise(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *(shape or (4, 8, 8)), generator=torch.Generator().manual_seed(0))


def _plain(pipe: Any, noise: Tensor, generator: GeneratorConfig = GENERATOR) -> Tensor:
    return pipe(
        PROMPTS, negative_prompt=[generator.negative_prompt] * 2, latents=noise, num_inference_steps=generator.steps,
        guidance_scale=generator.guidance_scale, output_type="latent",
    ).images  # fmt: skip


def _excitation(pipe: Any, config: AttendAndExciteConfig, noise: Tensor) -> Excitation:
    pipe.scheduler.set_timesteps(STEPS)
    text, tokens, size = _read(pipe, noise)
    return Excitation(pipe.unet, pipe.scheduler, text, tokens, size, config)


def _read(pipe: Any, noise: Tensor) -> tuple[Tensor, list[RowTokens], MapSize]:
    with torch.no_grad():
        text, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False)
    return text, find_tokens(pipe.tokenizer, PROMPTS, SUBJECTS), pipeline_map_size(pipe, NO_UPDATE, noise.shape)


def _responses(pipe: Any, latents: Tensor, step: int) -> Tensor:
    """Response losses ``[B]`` at a sampler step, with gradient where ``latents`` ask for it."""
    pipe.scheduler.set_timesteps(STEPS)
    return attention_losses(pipe.unet, latents, pipe.scheduler.timesteps[step], *_read(pipe, latents))[0]


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("guidance", [4.0, 1.0])
@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "dpmsolver++"])
def test_without_updates_it_is_the_library(tiny_sd: Path, scheduler: str, guidance: float) -> None:
    pipe = _load(tiny_sd)
    pipe.scheduler = build_scheduler(scheduler, pipe.scheduler.config)
    generator = GENERATOR.model_copy(update={"guidance_scale": guidance})
    ours, spent = AttendAndExcite(NO_UPDATE).sample(pipe, generator, PROMPTS, SUBJECTS, _noise(2), STEPS)
    assert float((ours - _plain(pipe, _noise(2), generator)).abs().max()) < 1e-5
    assert ours.dtype == torch.float32
    assert spent == [6.0, 6.0]


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_without_updates_it_is_the_library_under_a_scheduler_that_scales(tiny_sd: Path) -> None:
    pipe = _load(tiny_sd)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    ours, _ = AttendAndExcite(NO_UPDATE).sample(pipe, GENERATOR, PROMPTS, SUBJECTS, _noise(2), STEPS)
    assert float((ours - _plain(pipe, _noise(2))).abs().max()) < 1e-5


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:torch.meshgrid")
@pytest.mark.parametrize("thresholds", [{}, {0: 1.0}], ids=["updates", "twenty refinements"])
def test_it_is_the_librarys_attend_and_excite_where_both_agree(tiny_sd: Path, thresholds: dict[int, float]) -> None:
    """The library leaves out the last position alone, so the prompt fills the text encoder's 16 positions."""
    pipe, noise = _attentive(_load(tiny_sd, torch.float64)), _noise(1).double()
    prompt = "a cat and a red car on a bowl with a cat above a"
    generator = GeneratorConfig(steps=4, guidance_scale=4.0)
    config = AttendAndExciteConfig(until=0.5, step=3.0, thresholds=thresholds)
    ours, spent = AttendAndExcite(config).sample(
        pipe, generator, [prompt], [["cat", "car", "bowl"]], noise, generator.steps
    )
    places = find_tokens(pipe.tokenizer, [prompt], [["cat", "car", "bowl"]])[0]
    assert places.stop == 15
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    library = StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False)
    library.set_progress_bar_config(disable=True)
    theirs = library(
        prompt, [place for (place,) in places.subjects], latents=noise, num_inference_steps=4, guidance_scale=4.0,
        max_iter_to_alter=2, thresholds=thresholds, scale_factor=3.0, attn_res=(8, 8), output_type="latent",
    ).images  # fmt: skip
    plain = pipe(prompt, latents=noise, num_inference_steps=4, guidance_scale=4.0, output_type="latent").images
    assert float((ours - plain).abs().max()) > 0.1
    assert float((ours - theirs).abs().max()) < 1e-5
    assert spent == [4 + (2 + 20 * len(thresholds)) * 1.5]


def test_an_update_is_a_step_down_the_gradient_of_the_response(pipe: Any) -> None:
    noise, config = _noise(2), AttendAndExciteConfig(until=1.0, step=2.0, thresholds={})
    excitation = _excitation(pipe, config, noise)
    moved = excitation(noise, 3)
    latents = noise.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_responses(pipe, latents, 3).sum(), latents)
    alpha = 2.0 * math.sqrt(1 - 0.5 * 3 / 5)
    torch.testing.assert_close(moved, noise - alpha * gradient, rtol=1e-4, atol=1e-5)
    assert excitation.passes == [1, 1]


def test_step_sizes_fall_with_the_square_root_of_the_time() -> None:
    sizes = step_sizes(AttendAndExciteConfig(step=20.0), 51)
    assert sizes[0] == 20.0
    assert sizes[25] == pytest.approx(20 * math.sqrt(0.75))
    assert sizes[-1] == pytest.approx(20 * math.sqrt(0.5))


def test_thresholds_are_shares_of_the_steps() -> None:
    assert required_attention(AttendAndExciteConfig(), 50) == {0: 0.05, 10: 0.5, 20: 0.8}
    assert required_attention(AttendAndExciteConfig(thresholds={0.2: 0.8, 0.25: 0.5}), 4) == {1: 0.8}


def test_updates_end_at_their_share_of_the_steps(pipe: Any) -> None:
    excitation = _excitation(pipe, AttendAndExciteConfig(until=0.5, thresholds={0.5: 1.0}), _noise(2))
    assert excitation.steps == 3
    assert not torch.equal(excitation(_noise(2), 2), _noise(2))
    assert torch.equal(excitation(_noise(2), 3), _noise(2))  # not even for a threshold
    assert excitation.passes == [1, 1]


@pytest.mark.parametrize("refinements", [1, 4])
def test_a_threshold_out_of_reach_ends_with_the_last_refinement(pipe: Any, refinements: int) -> None:
    config = AttendAndExciteConfig(until=1.0, thresholds={0.5: 1.0}, refinements=refinements)
    excitation = _excitation(pipe, config, _noise(2))
    excitation(_noise(2), 3)
    assert excitation.passes == [refinements + 1] * 2


def test_only_rows_short_of_the_threshold_are_refined(pipe: Any) -> None:
    losses = _responses(pipe, _noise(2), 0).detach()
    between = 1 - float(losses.mean())
    config = AttendAndExciteConfig(until=1.0, step=1e-6, thresholds={0.0: between}, refinements=3)
    excitation = _excitation(pipe, config, _noise(2))
    excitation(_noise(2), 0)
    assert [excitation.passes[row] for row in losses.argsort().tolist()] == [1, 4]


def test_updates_raise_the_subjects_attention_at_their_step(embedded: Any) -> None:
    config, noise = AttendAndExciteConfig(thresholds={0.0: 0.9}, refinements=5), _noise(2, 16, 8, 8)
    moved = _excitation(embedded, config, noise)(noise, 0)
    with torch.no_grad():
        before, after = (_responses(embedded, latents, 0) for latents in (noise, moved))
    assert bool((after < before - 0.005).all()), (before, after)


def _together_and_alone(pipe: Any, config: AttendAndExciteConfig, noise: Tensor) -> tuple[Tensor, Tensor]:
    method = AttendAndExcite(config)
    together, spent = method.sample(pipe, GENERATOR, PROMPTS, SUBJECTS, noise, STEPS)
    alone = [
        method.sample(pipe, GENERATOR, [PROMPTS[row]], [SUBJECTS[row]], noise[row : row + 1], STEPS) for row in range(2)
    ]
    assert spent == [row[1][0] for row in alone]
    assert float((together - _plain(pipe, noise)).abs().amax((1, 2, 3)).min()) > 1e-2
    return together, torch.cat([row[0] for row in alone])


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "dpmsolver++"])
def test_a_batch_equals_its_rows_one_by_one(tiny_sd: Path, scheduler: str) -> None:
    pipe = _attentive(_load(tiny_sd, torch.float64))  # random weights blow up what rounding leaves
    pipe.scheduler = build_scheduler(scheduler, pipe.scheduler.config)
    config = AttendAndExciteConfig(until=0.5, thresholds={0.0: 0.5}, refinements=2)
    together, alone = _together_and_alone(pipe, config, _noise(2).double())
    assert float((together - alone).abs().max()) < 1e-5


def test_a_batch_equals_its_rows_one_by_one_on_the_built_in_model(embedded: Any) -> None:
    together, alone = _together_and_alone(embedded, AttendAndExciteConfig(refinements=4), _noise(2, 16, 8, 8))
    assert float((together - alone).abs().max()) < 1e-4


def test_a_latent_that_is_not_square(pipe: Any) -> None:
    z_0, spent = AttendAndExcite(AttendAndExciteConfig(until=0.2, thresholds={})).sample(
        pipe, GENERATOR, PROMPTS, SUBJECTS, _noise(2, 4, 8, 12), GENERATOR.steps
    )
    assert z_0.shape == (2, 4, 8, 12)
    assert spent == [6 + 1.5] * 2


def test_a_row_without_subjects_is_sampled_plainly(pipe: Any) -> None:
    config = AttendAndExciteConfig(until=0.5, thresholds={0.0: 1.0}, refinements=1)
    z_0, spent = AttendAndExcite(config).sample(pipe, GENERATOR, PROMPTS, [[], ["car"]], _noise(2), STEPS)
    assert float((z_0[0] - _plain(pipe, _noise(2))[0]).abs().max()) < 1e-5
    assert spent == [6.0, 6 + (3 + 1) * 1.5]


def test_the_attention_processors_are_as_before(pipe: Any) -> None:
    before = pipe.unet.attn_processors
    AttendAndExcite(AttendAndExciteConfig(until=0.2)).sample(
        pipe, GENERATOR, PROMPTS, SUBJECTS, _noise(2), GENERATOR.steps
    )
    assert pipe.unet.attn_processors == before


def test_sliced_attention_is_read_alike(tiny_sd: Path) -> None:
    sliced, whole = (_attentive(_load(tiny_sd, torch.float64)) for _ in range(2))
    config = AttendAndExciteConfig(until=0.5, thresholds={}, step=2.0)
    sliced.unet.set_attention_slice("auto")
    ours, theirs = (
        AttendAndExcite(config).sample(pipe, GENERATOR, PROMPTS, SUBJECTS, _noise(2).double(), STEPS)[0]
        for pipe in (sliced, whole)
    )
    assert float((ours - theirs).abs().max()) < 1e-5


def test_a_size_that_the_unet_lacks_is_refused(pipe: Any) -> None:
    with pytest.raises(UserError, match=r"optimizer\.attention_size: 5 .* use one of 8, 4"):
        AttendAndExcite(AttendAndExciteConfig(attention_size=5)).sample(
            pipe, GENERATOR, PROMPTS, SUBJECTS, _noise(2), GENERATOR.steps
        )


def test_half_precision_stays_close(embedded: Any) -> None:
    """For most images: where two places have almost the largest attention, rounding decides which of them is moved."""
    config, noise = AttendAndExciteConfig(until=0.2, thresholds={}), _noise(8, 16, 8, 8)
    exact, spent = AttendAndExcite(config).sample(embedded, GENERATOR, PROMPTS * 4, SUBJECTS * 4, noise, STEPS)
    half, _ = AttendAndExcite(config).sample(
        _load(weights("sd"), torch.bfloat16), GENERATOR, PROMPTS * 4, SUBJECTS * 4, noise, STEPS
    )
    assert half.dtype == torch.float32
    assert float((half - exact).square().mean((1, 2, 3)).sqrt().median()) < 0.1
    assert spent == [6 + 1.5] * 8
