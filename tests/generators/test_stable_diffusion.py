"""The adapter against the library's own pipeline, on a tiny model of the true class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_generator

PROMPTS = ["a cat and a red car", "a dog"]


def _noise(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_z0_equals_the_pipelines_own(tiny_sd: Path) -> None:
    config = GeneratorConfig(model=str(tiny_sd), steps=6, guidance_scale=4.0)
    ours = load_generator(find_generator(config), "cpu").sample(PROMPTS, _noise(2), 6)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    theirs = pipe(PROMPTS, latents=_noise(2), num_inference_steps=6, guidance_scale=4.0, output_type="latent").images
    assert ours.dtype == torch.float32
    assert float((ours - theirs).abs().max()) < 1e-4, "prompts are encoded alone here, and in a batch there"


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "dpmsolver++"])
def test_a_batch_equals_its_rows_one_by_one(tiny_sd: Path, scheduler: str) -> None:
    generator = load_generator(find_generator(GeneratorConfig(model=str(tiny_sd), steps=5, scheduler=scheduler)), "cpu")
    together = generator.sample(PROMPTS, _noise(2), 5)
    alone = torch.cat([generator.sample([prompt], _noise(2)[i : i + 1], 5) for i, prompt in enumerate(PROMPTS)])
    assert float((together - alone).abs().max()) < 1e-4


def test_the_same_call_twice_is_bit_identical(tiny_sd: Path) -> None:
    generator = load_generator(find_generator(GeneratorConfig(model=str(tiny_sd), steps=5, scheduler="pndm")), "cpu")
    assert torch.equal(generator.sample(PROMPTS, _noise(2), 5), generator.sample(PROMPTS, _noise(2), 5))


def test_the_gain_is_that_of_the_steps_taken(tiny_sd: Path) -> None:
    generator = load_generator(find_generator(GeneratorConfig(model=str(tiny_sd), steps=50)), "cpu")
    assert generator.gain(50) == pytest.approx(13.153, abs=2e-3)
    assert generator.gain(5) != generator.gain(50)


def test_spec_follows_the_model_and_the_config(tiny_sd: Path) -> None:
    assert load_generator(find_generator(GeneratorConfig(model=str(tiny_sd))), "cpu").spec.shape == (4, 8, 8)
    spec = load_generator(find_generator(GeneratorConfig(model=str(tiny_sd), height=32, width=24)), "cpu").spec
    assert (spec.shape, spec.height, spec.width) == ((4, 16, 12), 32, 24)


def test_an_odd_size_is_refused_before_loading(tiny_sd: Path) -> None:
    with pytest.raises(UserError, match=r"generators\.height: 30 is not a multiple of 8"):
        find_generator(GeneratorConfig(model=str(tiny_sd), height=30))


def test_the_revision_follows_the_weights(tiny_sd: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_sd, copy)
    revision = find_generator(GeneratorConfig(model=str(tiny_sd))).source.resolved_revision()
    assert find_generator(GeneratorConfig(model=str(copy))).source.resolved_revision() == revision
    weights = next(copy.glob("unet/*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert find_generator(GeneratorConfig(model=str(copy))).source.resolved_revision() != revision
