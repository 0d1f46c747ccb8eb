"""Noise Diffusion as its paper describes it (arXiv 2411.16503), one prompt and one image at a time.

It uses the same models, prompts and draws as the search of this package, and none of its shortcuts. The gradient of the
score with respect to z_T goes by autograd through the scorers, the VAE and the whole sampler, which is replayed with
the model's predictions held constant, as the official implementation does. Each of the N changes v_i is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from noisesmith.pipeline.config import NoiseDiffusionConfig, RunConfig
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.models.libraries import Options, Scheduler
from noisesmith.pipeline.noise import NoiseKey, alignment, change, step_size, update
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.scorers import Asked
from noisesmith.pipeline.search.asking import edits_of, questions_of
from noisesmith.pipeline.search.loop import LoadedModels


@dataclass
class Sampling:
    """The calls that a pipeline made of its scheduler while it sampled.

    Attributes:
        begin: sets the timesteps, as the pipeline did.
        steps: prediction, timestep and options of every step.
    """

    scheduler: Scheduler
    begin: Callable[[], None] = lambda: None
    steps: list[tuple[Tensor, Tensor, Options]] = field(default_factory=list)

    def replay(self, noise: Tensor) -> Tensor:
        """z_0 ``[1, …]`` of z_T ``[1, …]`` by the same steps and predictions; differentiable."""
        scheduler = self.scheduler
        self.begin()
        sample = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
        for prediction, timestep, options in self.steps:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(sample, timestep)
            sample = scheduler.step(prediction, timestep, sample, **options)[0]
        return sample


@contextmanager
def recorded(scheduler: Scheduler) -> Iterator[Sampling]:
    """Record what a pipeline asks of its scheduler within the block."""
    set_timesteps = scheduler.set_timesteps
    step = scheduler.step
    sampling = Sampling(scheduler)

    @wraps(set_timesteps)
    def begin(*args: Any, **options: Any) -> None:
        sampling.begin = partial(set_timesteps, *args, **options)
        sampling.begin()

    @wraps(step)
    def take(prediction: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> tuple[Tensor, ...]:
        sampling.steps.append((prediction, timestep, options))
        return step(prediction, timestep, sample, **options)

    vars(scheduler).update(set_timesteps=begin, step=take)
    try:
        yield sampling
    finally:
        del vars(scheduler)["set_timesteps"], vars(scheduler)["step"]


@dataclass(frozen=True)
class Image:
    """One image: its z_T, its score, ∂s/∂z_T where it was asked for, and its pixels ``[1, 3, H, W]``."""

    noise: Tensor
    score: float
    gradient: Tensor | None
    pixels: Tensor


@dataclass(frozen=True)
class Searched:
    """One prompt's search: its best image, and by image the scores, and by round the candidates taken.

    ``seconds`` is how long it took.
    """

    best: Image
    scores: list[float]
    indices: list[int]
    seconds: float


class SequentialLoop:
    """The loop over rounds, with loaded models. It never stops early, moves from the latest noise, and keeps the best.

    Args:
        models: those of the search of this package; its generator is an :class:`Adapter` whose pipeline's latents are
            the sampler's.
        config: its optimizer is the paper's, ``noise_diffusion`` with candidates.
    """

    def __init__(self, models: LoadedModels, config: RunConfig) -> None:
        assert isinstance(models.generator, Adapter)  # what load_models loads
        assert isinstance(config.optimizer, NoiseDiffusionConfig)  # what the design of the comparison lets through
        self._generator = models.generator
        self._models = models
        self._config = config
        self._candidates = config.optimizer.candidates
        members = [member for group in models.groups for member in group.members]
        self._weights = torch.tensor([member.weight for member in members])

    def search(self, row: Row, rounds: int) -> Searched:
        """Search one prompt for ``rounds`` rounds after the first image."""
        began = time.perf_counter()
        image = self.make_image(row, self.first_noise(row), gradient=rounds > 0)
        best = image
        scores = [image.score]
        indices: list[int] = []
        for number in range(1, rounds + 1):
            noise, index = self.next_noise(row, number, image)
            image = self.make_image(row, noise, gradient=number < rounds)
            scores.append(image.score)
            indices.append(index)
            if image.score > best.score:
                best = image
        return Searched(best, scores, indices, time.perf_counter() - began)

    def first_noise(self, row: Row) -> Tensor:
        """z_T ``[C, h, w]`` of a prompt's first image."""
        return self._key(row, 0).draw(0, self._generator.spec.shape)

    def next_noise(self, row: Row, number: int, image: Image) -> tuple[Tensor, int]:
        """z_T ``[C, h, w]`` of round ``number``, after an image with a gradient, and the index of its candidate."""
        gamma = step_size(image.score)
        key = self._key(row, number)
        drawn = torch.stack([key.draw(index, image.noise.shape) for index in range(self._candidates)])
        assert image.gradient is not None  # every round but the last is asked for it
        index = int(alignment(change(image.noise, gamma, drawn), image.gradient).argmax())
        return update(image.noise, gamma, drawn[index]), index

    def make_image(self, row: Row, noise: Tensor, *, gradient: bool) -> Image:
        """The image of z_T ``[C, h, w]``, its score s in [0, 1] and, where ``gradient`` is set, ∂s/∂z_T."""
        generator = self._generator
        options = generator.sampling_options([generator.plain(row.prompt)], noise[None], self._config.generators.steps)
        with recorded(generator.pipe.scheduler) as sampling:
            generator.pipe(**options, output_type="latent")
        with torch.set_grad_enabled(gradient):
            start = options["latents"].to(self._models.decoder.vae.device).clone().requires_grad_(gradient)
            pixels = self._models.decoder(sampling.replay(start))
            score = self._score(row, pixels)
            slope = torch.autograd.grad(score, start)[0][0].float().cpu() if gradient else None
        return Image(noise, min(float(score.detach()), 1.0), slope, pixels.detach())

    def _score(self, row: Row, pixels: Tensor) -> Tensor:
        """s of an image: the weighted geometric mean of all scorers, as ``combine: mean`` has it."""
        asked = Asked([row.prompt], [questions_of(row, self._config)], [edits_of(row, self._config)])
        logs = [group.answer(asked, pixels).log_scores[:, 0] for group in self._models.groups]
        log_scores = torch.cat(logs)
        weights = self._weights.to(log_scores)
        return (weights @ log_scores / weights.sum()).exp()

    def _key(self, row: Row, number: int) -> NoiseKey:
        return NoiseKey(self._config.seed, row.search_id, number)
