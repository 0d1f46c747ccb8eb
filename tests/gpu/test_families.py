"""Every model family on the GPU, in each dtype, against the CPU in float32."""

from __future__ import annotations

import pytest
import torch

from noisesmith.pipeline.config import JudgeConfig, ScorerConfig
from noisesmith.pipeline.generators import Decoder
from noisesmith.pipeline.images import to_uint8
from noisesmith.pipeline.scorers import Group, Member, find_judge, load_judge
from noisesmith.pipeline.scorers.base import Scores
from noisesmith.pipeline.search.score import score_latents
from tests import tiny_generators
from tests.gpu.conftest import Folders
from tests.gpu.models import PROMPTS, STEPS, decoder, distance, load, noise, scorer
from tests.tiny_families import SCORERS

pytestmark = pytest.mark.gpu

# How far a result may be from the CPU's in float32. float32 differs in the order of sums alone. The 8 and 11 bits of
# bfloat16 and float16 are rounded in every layer of every step.
DTYPES = ("float32", "float16", "bfloat16")
LATENTS = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
SCORE = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
GRADIENT = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}


def latents_of(vae: Decoder) -> torch.Tensor:
    channels = int(vae.vae.config.latent_channels)
    return torch.randn(len(PROMPTS), channels, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.2


def score(folders: Folders, family: str, scorer_name: str, device: str, dtype: str) -> Scores:
    """Scores of the same z_0 by one decoder and one scorer, both in ``dtype``, with gradients."""
    vae = decoder(folders[family], device, dtype=dtype)
    return score_latents(
        vae, Group((Member(scorer(folders[scorer_name], device, dtype)),)), PROMPTS, latents_of(vae), gradient=True
    )


def compare(found: Scores, expected: Scores, dtype: str) -> None:
    assert found.log_gradients is not None
    assert expected.log_gradients is not None
    for part in (found.scores, found.log_gradients):
        assert part.device.type == "cpu"
    assert (found.scores.double() - expected.scores.double()).abs().max() < SCORE[dtype]
    assert distance(found.log_gradients, expected.log_gradients) < GRADIENT[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", tiny_generators.FAMILIES)
def test_a_generator_makes_the_latents_that_it_makes_on_the_cpu(
    family: str, dtype: str, device: str, folders: Folders
) -> None:
    reference = load(folders[family], "cpu")
    expected = reference.sample(PROMPTS, noise(reference), STEPS)
    made = load(folders[family], device, dtype=dtype).sample(PROMPTS, noise(reference), STEPS)
    assert (made.device.type, made.dtype) == ("cpu", torch.float32)
    assert distance(made, expected) < LATENTS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", tiny_generators.FAMILIES)
def test_a_decoder_and_its_gradient(family: str, dtype: str, device: str, folders: Folders) -> None:
    """The gradient passes through the VAE in its own dtype; one that overflows in float16 stays in float32."""
    expected = score(folders, family, "llava", "cpu", "float32")
    found = score(folders, family, "llava", device, dtype)
    compare(found, expected, dtype)
    images = []
    for vae in (decoder(folders[family], "cpu"), decoder(folders[family], device, dtype=dtype)):
        with torch.no_grad():
            images.append(to_uint8(vae(latents_of(vae))).int())
    assert (images[1] - images[0]).abs().float().mean() < 255 * LATENTS[dtype]


CASES = [(name, dtype) for name in SCORERS for dtype in DTYPES if (name, dtype) != ("clip_flant5", "float16")]


@pytest.mark.parametrize(("name", "dtype"), CASES)  # CLIP-FlanT5 refuses float16, in which T5 overflows
def test_a_scorer_and_its_gradient(name: str, dtype: str, device: str, folders: Folders) -> None:
    expected = score(folders, "sd1", name, "cpu", "float32")
    found = score(folders, "sd1", name, device, dtype)
    compare(found, expected, dtype)


def test_the_embedded_judge(device: str) -> None:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prompts = ["a red cat and a blue dog"] * 4
    found = find_judge(JudgeConfig(name="detector", model="embedded/judge"), ScorerConfig())
    expected = load_judge(found, "cpu").judge(prompts, images)
    assert load_judge(found, device).judge(prompts, images) == pytest.approx(expected, abs=1e-4)
