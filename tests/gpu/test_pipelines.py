"""The newer families on the GPU, in each dtype, against the CPU in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators import FoundGenerator, find_generator, load_decoder, load_generator
from tests.gpu.models import PROMPTS, distance
from tests.tiny_pipelines import EVERY, ONE_OF_EACH

pytestmark = pytest.mark.gpu

LATENTS = {"float32": 1e-3, "bfloat16": 0.2}


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def pipeline(request: pytest.FixtureRequest, device: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A family's name and a checkpoint of it."""
    name: str = request.param
    return name, EVERY[name].build(tmp_path_factory.mktemp("pipeline"))


def found(pipeline: tuple[str, Path], dtype: str) -> FoundGenerator:
    name, folder = pipeline
    fields = {"model": str(folder), "steps": 3, "height": 64, "width": 32, "dtype": dtype, **EVERY[name].options}
    return find_generator(GeneratorConfig.model_validate(fields))


@pytest.mark.parametrize("dtype", LATENTS)
def test_z0_image_and_gradient_are_those_of_the_cpu(pipeline: tuple[str, Path], dtype: str, device: str) -> None:
    exact, tried = found(pipeline, "float32"), found(pipeline, dtype)
    steps = exact.config.steps
    noise = torch.randn(len(PROMPTS), *exact.spec.shape, generator=torch.Generator().manual_seed(0))
    reference = load_generator(exact, "cpu")
    generator = load_generator(tried, device)
    expected = reference.sample(PROMPTS, noise, steps)
    made = generator.sample(PROMPTS, noise, steps)
    assert (made.device.type, made.dtype) == ("cpu", torch.float32)
    assert distance(made, expected) < LATENTS[dtype]
    slope = torch.randn(exact.spec.decoded, generator=torch.Generator().manual_seed(1))
    assert distance(generator.pull_back(slope, steps), reference.pull_back(slope, steps)) < 1e-2
    images = load_decoder(tried, device)(expected).float().cpu()
    assert (images - load_decoder(exact, "cpu")(expected)).abs().mean() < LATENTS[dtype]
