"""Every family against the library's own pipeline, on tiny models of the true classes."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionPipeline, UNet2DConditionModel

from noisesmith.pipeline.config import GeneratorConfig, validated
from noisesmith.pipeline.generators import (
    Generator,
    find_generator,
    load_decoder,
    load_generator,
)
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.search.generate import generate
from noisesmith.pipeline.search.tasks import GenerateTask
from tests.tiny_generators import stable_diffusion_3, vae_without_statistics

PROMPTS = ["a cat and a red car", "a dog"]
PIPELINES = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
}
SAMPLERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
}
UNETS = ("sd1", "sd2", "sdxl")
EVERY = [(name, sampler) for name in UNETS for sampler in SAMPLERS if sampler != "flow_euler"] + [("sd3", "flow_euler")]


def _noise(generator: Generator, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *generator.spec.shape, generator=torch.Generator().manual_seed(0))


@functools.cache
def _pretrained(family: str, folder: Path, *without: str, dtype: torch.dtype = torch.float32) -> Any:
    return getattr(diffusers, PIPELINES[family]).from_pretrained(folder, dtype=dtype, **dict.fromkeys(without))


def _library(family: str, folder: Path, sampler: str, spacing: str | None = None, *without: str, **options: Any) -> Any:
    """The library's pipeline as a user would set it up."""
    pipe = _pretrained(family, folder, *without, **options)
    extra: dict[str, Any] = {"skip_prk_steps": True} if sampler == "pndm" else {}
    extra |= {"timestep_spacing": spacing} if spacing else {}
    extra |= {"clip_sample": False} if sampler == "ddim" else {}
    trained = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    pipe.scheduler = getattr(diffusers, SAMPLERS.get(sampler, sampler)).from_config(trained, **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize(("family", "sampler"), EVERY)
def test_z0_and_gain_are_those_of_the_pipelines_own_loop(
    families: Mapping[str, Path], family: str, sampler: str, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    """z_0 of the same call; and the call's predictions, held constant under autograd, give dz_0/dz_T = c·I.

    z_0 to 1e-4, since each prompt is encoded alone here. Of one row it is the same to the bit.
    """
    steps = 5
    config = GeneratorConfig(model=str(families[family]), scheduler=sampler, steps=steps, guidance_scale=4.0)
    generator = load_generator(find_generator(config), "cpu")
    ours = generator.sample(PROMPTS, _noise(generator), steps)
    pipe, predictions = _library(family, families[family], sampler), []
    scheduler = pipe.scheduler
    step = scheduler.step

    @functools.wraps(step)
    def record(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        predictions.append(model_output.clone())
        return step(model_output, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "step", record)
        theirs = pipe(
            PROMPTS, latents=_noise(generator), num_inference_steps=steps, guidance_scale=4.0, output_type="latent"
        ).images
    record_property("z_0", _difference(ours, theirs))
    assert ours.dtype == torch.float32
    assert _difference(ours, theirs) < 1e-4
    alone = generator.sample(PROMPTS[:1], _noise(generator)[:1], steps)
    own = {"num_inference_steps": steps, "guidance_scale": 4.0, "output_type": "latent"}
    assert torch.equal(alone, pipe(PROMPTS[:1], latents=_noise(generator)[:1], **own).images)

    noise = _noise(generator).requires_grad_()
    scheduler.set_timesteps(steps)
    replayed = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for timestep, prediction in zip(scheduler.timesteps, predictions, strict=True):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(replayed, timestep)
        replayed = scheduler.step(prediction, timestep, replayed, return_dict=False)[0]
    assert _difference(ours, replayed.detach()) < 1e-4
    direction = torch.randn(replayed.shape, generator=torch.Generator().manual_seed(1))
    (at_noise,) = torch.autograd.grad((replayed * direction).sum(), noise)
    error = float((at_noise - generator.gain(steps) * direction).norm() / at_noise.norm())
    record_property("gain", error)
    assert error < 1e-4


@pytest.mark.parametrize("family", list(PIPELINES))
def test_a_negative_prompt_reaches_the_pipeline(families: Mapping[str, Path], family: str) -> None:
    sampler = "flow_euler" if family == "sd3" else "ddim"
    config = GeneratorConfig(
        model=str(families[family]), scheduler=sampler, steps=3, guidance_scale=4.0, negative_prompt="a blue bowl"
    )
    generator = load_generator(find_generator(config), "cpu")
    theirs = _library(family, families[family], sampler)(
        PROMPTS, negative_prompt=["a blue bowl"] * 2, latents=_noise(generator), num_inference_steps=3,
        guidance_scale=4.0, output_type="latent",
    ).images  # fmt: skip
    assert _difference(generator.sample(PROMPTS, _noise(generator), 3), theirs) < 1e-4


@pytest.mark.parametrize("family", list(PIPELINES))
def test_a_batch_equals_its_rows_one_by_one(families: Mapping[str, Path], family: str, record_property: Any) -> None:
    """To 1e-4: sums run in another order for another batch size, and the sampler multiplies the difference by c."""
    sampler = "flow_euler" if family == "sd3" else "euler"
    generator = load_generator(
        find_generator(GeneratorConfig(model=str(families[family]), steps=5, scheduler=sampler)), "cpu"
    )
    noise = _noise(generator)
    together = generator.sample(PROMPTS, noise, 5)
    alone = torch.cat([generator.sample([prompt], noise[i : i + 1], 5) for i, prompt in enumerate(PROMPTS)])
    record_property("difference", _difference(together, alone))
    assert _difference(together, alone) < 1e-4
    assert torch.equal(generator.sample(PROMPTS, noise, 5), together)


@pytest.mark.parametrize("family", list(PIPELINES))
def test_spec_follows_the_model_and_the_config(families: Mapping[str, Path], family: str) -> None:
    sampler = "flow_euler" if family == "sd3" else "ddim"
    channels = 16 if family == "sd3" else 4
    own = load_generator(find_generator(GeneratorConfig(model=str(families[family]), scheduler=sampler)), "cpu").spec
    assert (own.shape, own.height, own.width) == ((channels, 8, 8), 16, 16)
    config = GeneratorConfig(model=str(families[family]), scheduler=sampler, steps=2, height=32, width=24)
    generator = load_generator(find_generator(config), "cpu")
    assert generator.spec.shape == (channels, 16, 12)
    assert generator.sample(PROMPTS, _noise(generator), 2).shape == (2, channels, 16, 12)


@pytest.mark.parametrize("family", list(PIPELINES))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_decoded_images_equal_the_pipelines_own(
    families: Mapping[str, Path], family: str, dtype: str, record_property: Any
) -> None:
    """In float16 the SDXL pipeline decodes in float32, and so does the decoder; the others' VAEs do here as well."""
    sampler = "flow_euler" if family == "sd3" else "ddim"
    config = GeneratorConfig(model=str(families[family]), steps=3, scheduler=sampler, guidance_scale=2.0, dtype=dtype)
    generator = load_generator(find_generator(config), "cpu")
    torch_dtype = getattr(torch, dtype)
    decoder = load_decoder(find_generator(config), "cpu")
    ours = decoder(generator.sample(PROMPTS, _noise(generator), 3))
    pipe = _library(family, families[family], sampler, dtype=torch_dtype)
    theirs = pipe(
        PROMPTS, latents=_noise(generator).to(torch_dtype), num_inference_steps=3, guidance_scale=2.0, output_type="pt"
    ).images.float()
    record_property("difference", _difference(ours, theirs))
    assert ours.min() < 0.4 < 0.6 < ours.max()
    exact = dtype == "float32" or family == "sdxl"
    assert _difference(ours, theirs) < (1e-5 if exact else 1e-2)


def test_a_vae_with_its_own_mean_and_deviation_is_undone_as_the_pipeline_does(
    families: Mapping[str, Path], tmp_path: Path
) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(families["sdxl"])
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.vae.register_to_config(latents_mean=[-1.6, 1.1, 3.3, -1.8], latents_std=[8.4, 6.0, 4.3, 5.0])
    pipe.save_pretrained(tmp_path)
    config = GeneratorConfig(model=str(tmp_path), steps=2, guidance_scale=2.0)
    generator = load_generator(find_generator(config), "cpu")
    ours = load_decoder(find_generator(config), "cpu")(generator.sample(PROMPTS, _noise(generator), 2))
    theirs = pipe(
        PROMPTS, latents=_noise(generator), num_inference_steps=2, guidance_scale=2.0, output_type="pt"
    ).images
    assert _difference(ours, theirs) < 1e-4


@pytest.mark.parametrize("kind", ["tiny", "asymmetric"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_vae_whose_config_names_no_statistics_decodes_as_the_pipeline_does(
    families: Mapping[str, Path], tmp_path: Path, family: str, kind: str
) -> None:
    """With a gradient, against finite differences in float64."""
    pipe = getattr(diffusers, PIPELINES[family]).from_pretrained(families[family], vae=vae_without_statistics(kind))
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.save_pretrained(tmp_path)
    config = GeneratorConfig(model=str(tmp_path), steps=2, guidance_scale=2.0)
    generator = load_generator(find_generator(config), "cpu")
    latents = generator.sample(PROMPTS, _noise(generator), 2)
    ours = load_decoder(find_generator(config), "cpu")(latents)
    theirs = pipe(
        PROMPTS, latents=_noise(generator), num_inference_steps=2, guidance_scale=2.0, output_type="pt"
    ).images
    assert float(ours.std()) > 0.01
    assert _difference(ours, theirs) < 1e-4

    decoder = load_decoder(find_generator(config), "cpu", clamp=False)
    decoder.vae.double()
    latents = latents.double().requires_grad_()
    weights, delta = torch.randn(ours.shape).double(), torch.randn(latents.shape).double()
    (gradient,) = torch.autograd.grad((decoder(latents) * weights).sum(), latents)
    with torch.no_grad():
        ahead, behind = ((decoder(latents + step * delta) * weights).sum() for step in (1e-7, -1e-7))
    assert float((ahead - behind) / 2e-7) == pytest.approx(float((gradient * delta).sum()), rel=1e-4)


@pytest.mark.parametrize("family", UNETS)
def test_few_step_models_sample_with_trailing_steps_and_no_guidance(families: Mapping[str, Path], family: str) -> None:
    config = GeneratorConfig(
        model=str(families[family]), scheduler="euler", timestep_spacing="trailing", steps=4, guidance_scale=0.0
    )
    generator = load_generator(find_generator(config), "cpu")
    for steps in (1, 2, 4):
        theirs = _library(family, families[family], "euler", "trailing")(
            PROMPTS, latents=_noise(generator), num_inference_steps=steps, guidance_scale=0.0, output_type="latent"
        ).images
        assert _difference(generator.sample(PROMPTS, _noise(generator), steps), theirs) < 1e-4


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_one_step_of_a_turbo_model_is_what_its_own_random_sampler_gives(
    families: Mapping[str, Path], family: str
) -> None:
    """SD-Turbo and SDXL-Turbo ship ``EulerAncestralDiscreteScheduler``, which draws no noise in its last step."""
    config = GeneratorConfig(
        model=str(families[family]), scheduler="euler", timestep_spacing="trailing", steps=1, guidance_scale=0.0
    )
    generator = load_generator(find_generator(config), "cpu")
    pipe = _library(family, families[family], "EulerAncestralDiscreteScheduler", "trailing")
    theirs = pipe(
        PROMPTS, latents=_noise(generator), num_inference_steps=1, guidance_scale=0.0, output_type="latent"
    ).images
    assert _difference(generator.sample(PROMPTS, _noise(generator), 1), theirs) < 1e-4


def test_a_consistency_model_equals_its_own_pipeline_in_one_step(families: Mapping[str, Path], tmp_path: Path) -> None:
    base = StableDiffusionPipeline.from_pretrained(families["sd1"], safety_checker=None)
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_config(base.unet.config, time_cond_proj_dim=16)
    scheduler = diffusers.LCMScheduler.from_config(base.scheduler.config)
    parts = base.components | {"unet": unet, "scheduler": scheduler}
    parts.pop("image_encoder")
    pipe = LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    pipe.save_pretrained(tmp_path)
    config = GeneratorConfig(model=str(tmp_path), scheduler="lcm", steps=1, guidance_scale=8.5)
    generator = load_generator(find_generator(config), "cpu")
    theirs = pipe(
        PROMPTS, latents=_noise(generator), num_inference_steps=1, guidance_scale=8.5, output_type="latent"
    ).images
    assert _difference(generator.sample(PROMPTS, _noise(generator), 1), theirs) < 1e-4


@pytest.mark.parametrize("dropped", [False, True])
def test_without_t5_its_place_is_zeros(families: Mapping[str, Path], tmp_path: Path, dropped: bool) -> None:
    """Whether the model has none or the config leaves it out."""
    folder = families["sd3"] if dropped else stable_diffusion_3(tmp_path, t5=False)
    config = GeneratorConfig(
        model=str(folder), scheduler="flow_euler", steps=3, guidance_scale=3.0, drop_t5=dropped, max_sequence_length=12
    )
    generator = load_generator(find_generator(config), "cpu")
    pipe = _library("sd3", families["sd3"], "flow_euler", None, "text_encoder_3", "tokenizer_3")
    theirs = pipe(
        PROMPTS, latents=_noise(generator), num_inference_steps=3, guidance_scale=3.0, output_type="latent",
        max_sequence_length=12,
    ).images  # fmt: skip
    assert _difference(generator.sample(PROMPTS, _noise(generator), 3), theirs) < 1e-4


def test_more_t5_tokens_make_another_image(families: Mapping[str, Path]) -> None:
    config = GeneratorConfig(model=str(families["sd3"]), scheduler="flow_euler", steps=2)
    short, long = (
        load_generator(find_generator(config.model_copy(update={"max_sequence_length": length})), "cpu")
        for length in (4, 12)
    )
    noise = _noise(short)
    assert _difference(short.sample(PROMPTS, noise, 2), long.sample(PROMPTS, noise, 2)) > 1e-4


def test_dynamic_shifting_moves_the_steps_and_not_the_gain(families: Mapping[str, Path], tmp_path: Path) -> None:
    folder = stable_diffusion_3(tmp_path, use_dynamic_shifting=True)
    generator = load_generator(
        find_generator(GeneratorConfig(model=str(folder), scheduler="flow_euler", steps=3)), "cpu"
    )
    theirs = _library("sd3", folder, "flow_euler")(
        PROMPTS, latents=_noise(generator), num_inference_steps=3, guidance_scale=7.5, output_type="latent"
    ).images
    assert _difference(generator.sample(PROMPTS, _noise(generator), 3), theirs) < 1e-4
    assert generator.gain(3) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("family", "method"), [*((name, "none") for name in PIPELINES), ("sd1", "attend_and_excite"), ("sd1", "initno")]
)
def test_a_prompts_special_tokens_are_text(families: Mapping[str, Path], family: str, method: str) -> None:
    """The end token in a prompt reads as its characters, for the encoders and for where its subjects are."""
    optimizer = {"method": method, **({} if method == "none" else {"attention_size": 4})}
    scheduler = "flow_euler" if family == "sd3" else "ddim"
    config = {
        "corpus": {"source": "embedded/simple", "size": 1},
        "generators": {"model": str(families[family]), "steps": 2, "guidance_scale": 4.0, "scheduler": scheduler},
        "optimizer": optimizer,
        "output": {"dir": "never-written"},
    }
    run = validated(config, "test")
    generator = load_generator(find_generator(run.generators), "cpu")

    def sample(prompt: str, *subjects: str) -> torch.Tensor:
        task = GenerateTask(prompt, subjects, NoiseKey(0, "00000000-aaaaaaaa", 0), 2)
        return generate(run.optimizer, generator, [task], [None]).latents

    hostile, broken_up = "a cat </s> and a dog", "a cat < /s> and a dog"
    assert torch.equal(sample(hostile, "</s> and", "dog"), sample(broken_up, "< /s> and", "dog"))
    if method == "none":
        raw = generator.sample([hostile], _noise(generator, 1), 2)
        assert not torch.equal(raw, generator.sample([broken_up], _noise(generator, 1), 2))
