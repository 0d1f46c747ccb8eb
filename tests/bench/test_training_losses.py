"""The losses of the trainings against the papers' formulas, for every family of generators."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from noisesmith.pipeline.bench.training.data import Example
from noisesmith.pipeline.bench.training.denoiser import denoiser_of
from noisesmith.pipeline.bench.training.loop import Encoded, encoded, fit, step_loss, to_latents
from noisesmith.pipeline.bench.training.losses import dpo_loss
from noisesmith.pipeline.bench.training.options import TrainingOptions
from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import RunError
from noisesmith.pipeline.generators import Decoder, find_generator, load_decoder
from noisesmith.pipeline.generators.adapter import Adapter
from tests import tiny_generators

FAMILIES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "sd2": (tiny_generators.stable_diffusion_2, "ddim"),
    "sdxl": (tiny_generators.stable_diffusion_xl, "euler"),
    "sd3": (tiny_generators.stable_diffusion_3, "flow_euler"),
}
BETA = 500.0


def load(folder: Path, scheduler: str = "ddim") -> Adapter:
    found = find_generator(GeneratorConfig(model=str(folder), scheduler=scheduler, steps=2))
    return found.family(found, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generators.stable_diffusion_2(tmp_path_factory.mktemp("sd2"))


@pytest.fixture
def generator(folder: Path) -> Adapter:
    """A tiny Stable Diffusion that predicts v."""
    return load(folder)


def random_examples(generator: Adapter, pictures: int, count: int = 4) -> Encoded:
    torch.manual_seed(3)
    latents = torch.randn(count, pictures, *generator.spec.shape)
    return Encoded(latents, generator.encode(["a cat", "a dog", "a red car", "a bowl"][:count]))


def v_errors(generator: Adapter, clean: Tensor, noise: Tensor, times: Tensor, embeddings: Tensor) -> list[float]:
    """The mean squared errors of v, written out in float64 from Salimans & Ho (arXiv 2202.00512)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    signals = np.cumprod(1 - betas)
    found = []
    for image in range(len(clean)):
        timestep = int(float(times[image]) * 1000)
        alpha, sigma = math.sqrt(signals[timestep]), math.sqrt(1 - signals[timestep])
        x, e = clean[image].double(), noise[image].double()
        noisy = (alpha * x + sigma * e).float()
        with torch.no_grad():
            predicted = generator.pipe.unet(noisy[None], timestep, embeddings[image : image + 1]).sample[0]
        found.append(float((predicted.double() - (alpha * e - sigma * x)).square().mean()))
    return found


def test_dpo_is_the_papers_formula_in_v(generator: Adapter) -> None:
    denoiser = denoiser_of(generator)
    examples = random_examples(generator, pictures=2)
    reference = copy.deepcopy(denoiser.network)
    positions = torch.tensor([2, 0, 3])
    draws = torch.Generator().manual_seed(5)
    noise = torch.randn(3, *generator.spec.shape, generator=draws)
    times = torch.rand(3, generator=draws)
    clean, embeddings = examples.latents[positions], examples.condition[0][positions]
    before = [v_errors(generator, clean[:, picture], noise, times, embeddings) for picture in (0, 1)]
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in denoiser.network.parameters():
            weight.add_(torch.randn_like(weight) * 0.01)
    now = [v_errors(generator, clean[:, picture], noise, times, embeddings) for picture in (0, 1)]
    expected = []
    for pair in range(3):
        inside = (now[0][pair] - before[0][pair]) - (now[1][pair] - before[1][pair])
        expected.append(math.log(1 + math.exp(BETA / 2 * inside)))
    draws = torch.Generator().manual_seed(5)
    loss = step_loss(denoiser, reference, examples, positions, draws, BETA)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-3)


def test_dpo_of_an_unchanged_model_is_the_logarithm_of_two(generator: Adapter) -> None:
    denoiser = denoiser_of(generator)
    draws = torch.Generator().manual_seed(0)
    loss = step_loss(
        denoiser, copy.deepcopy(denoiser.network), random_examples(generator, 2), torch.arange(4), draws, BETA
    )
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)


def test_dpo_falls_where_the_better_image_gains_on_the_worse_one() -> None:
    before = torch.tensor([0.5, 0.5], dtype=torch.float64)
    won, lost = torch.tensor([0.4, 0.5], dtype=torch.float64), torch.tensor([0.5, 0.6], dtype=torch.float64)
    expected = math.log(1 + math.exp(-0.1 * 10 / 2))
    assert dpo_loss(won, lost, before, before, 10.0).item() == pytest.approx(expected, abs=1e-12)
    assert dpo_loss(lost, won, before, before, 10.0).item() == pytest.approx(expected + 0.5, abs=1e-12)


def test_a_step_of_fine_tuning_lowers_the_loss_on_its_batch(generator: Adapter) -> None:
    denoiser = denoiser_of(generator)
    examples = random_examples(generator, pictures=1)

    def loss() -> float:
        draws = torch.Generator().manual_seed(1)
        torch.randperm(4, generator=draws)  # as fit draws the order first
        with torch.no_grad():
            return step_loss(denoiser, None, examples, torch.arange(4), draws, 1.0).item()

    order = torch.randperm(4, generator=torch.Generator().manual_seed(1))
    examples = Encoded(examples.latents[order.argsort()], tuple(part[order.argsort()] for part in examples.condition))
    options = TrainingOptions(steps=1, batch_size=4, learning_rate=1e-4)
    before = loss()
    (reported,) = fit(denoiser, examples, options, 1, lambda _: None)
    assert loss() < before
    assert math.isfinite(reported)


def test_fine_tuning_is_the_error_of_v(generator: Adapter) -> None:
    denoiser = denoiser_of(generator)
    examples = random_examples(generator, pictures=1)
    draws = torch.Generator().manual_seed(2)
    noise, times = torch.randn(4, *generator.spec.shape, generator=draws), torch.rand(4, generator=draws)
    expected = v_errors(generator, examples.latents[:, 0], noise, times, examples.condition[0])
    draws = torch.Generator().manual_seed(2)
    loss = step_loss(denoiser, None, examples, torch.arange(4), draws, 1.0)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pictures", [1, 2])
def test_every_family_is_trained_and_samples_what_it_learned(family: str, pictures: int, tmp_path: Path) -> None:
    make, scheduler = FAMILIES[family]
    generator = load(make(tmp_path / "model"), scheduler)
    decoder = load_decoder(find_generator(generator.config), "cpu")
    noise = torch.randn(1, *generator.spec.shape, generator=torch.Generator().manual_seed(0))
    before = generator.sample(["a cat"], noise, 2)
    images = torch.rand(2, pictures, 3, generator.spec.height, generator.spec.width)
    examples = [Example("a cat", tuple(of_row)) for of_row in images]
    found = encoded(examples, generator, decoder)
    assert found.latents.shape == (2, pictures, *generator.spec.shape)
    options = TrainingOptions(steps=2, batch_size=4, learning_rate=1e-2, dpo_learning_rate=1e-2)
    losses = fit(denoiser_of(generator), found, options, 0, lambda _: None)
    assert len(losses) == 2
    assert not torch.equal(generator.sample(["a cat"], noise, 2), before)


def test_flow_matching_learns_the_velocity_from_image_to_noise(tmp_path: Path) -> None:
    generator = load(tiny_generators.stable_diffusion_3(tmp_path / "sd3"), "flow_euler")
    denoiser = denoiser_of(generator)
    seen: dict[str, Tensor] = {}

    class Network(torch.nn.Module):
        def forward(self, hidden_states: Tensor, timestep: Tensor, **_: Tensor) -> object:
            seen.update(noisy=hidden_states, timestep=timestep)
            return type("Output", (), {"sample": torch.zeros_like(hidden_states)})

    clean, noise = torch.randn(2, 3, *generator.spec.shape).unbind(0)
    condition = (torch.zeros(3, 1, 1), torch.zeros(3, 1))
    errors = denoiser.errors(Network(), clean, noise, torch.tensor([0.1, 0.5, 0.9]), condition)
    assert errors.tolist() == pytest.approx((noise - clean).square().mean((1, 2, 3)).tolist(), rel=1e-5)
    sigmas = (seen["timestep"] / 1000)[:, None, None, None]
    assert torch.allclose(seen["noisy"], clean + sigmas * (noise - clean), atol=1e-5)
    assert 0 < sigmas.min() < sigmas.max() <= 1


@pytest.mark.parametrize("family", ["sd2", "sd3"])
def test_pictures_are_encoded_to_what_the_decoder_reads(family: str, tmp_path: Path) -> None:
    make, scheduler = FAMILIES[family]
    generator = load(make(tmp_path / "model"), scheduler)
    decoder = load_decoder(find_generator(generator.config), "cpu")
    image = torch.rand(1, 3, generator.spec.height, generator.spec.width)
    with torch.no_grad():
        mode = decoder.vae.encode(image * 2 - 1).latent_dist.mode()
        expected = decoder.vae.decode(mode).sample / 2 + 0.5
        found = decoder(to_latents(decoder, image))
    assert torch.allclose(found, expected.clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["tiny", "asymmetric"])
@torch.no_grad()
def test_pictures_are_encoded_by_a_vae_whose_config_names_no_statistics(kind: str) -> None:
    vae = tiny_generators.vae_without_statistics(kind)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    encoding = vae.encode(image * 2 - 1)
    latents = encoding.latents if kind == "tiny" else encoding.latent_dist.mean
    expected = vae.decode(latents).sample / 2 + 0.5
    decoder = Decoder(vae)
    assert torch.allclose(decoder(to_latents(decoder, image)), expected.clamp(0, 1), atol=1e-5)


def test_a_training_that_diverges_names_its_option(generator: Adapter) -> None:
    options = TrainingOptions(steps=5, batch_size=4, learning_rate=1e30)
    with pytest.raises(RunError, match="--learning-rate 1e"):
        fit(denoiser_of(generator), random_examples(generator, 1), options, 0, lambda _: None)
