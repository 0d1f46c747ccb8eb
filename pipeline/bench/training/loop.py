"""The training loop: a plain one, the same for all arms but for the loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from noisesmith.pipeline.bench.training.data import Example
from noisesmith.pipeline.bench.training.denoiser import Condition, Denoiser
from noisesmith.pipeline.bench.training.losses import dpo_loss, tuning_loss
from noisesmith.pipeline.bench.training.options import TrainingOptions
from noisesmith.pipeline.errors import RunError
from noisesmith.pipeline.generators import Decoder
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.generators.decoder import latent_statistics

MAX_NORM = 1.0  # of the gradient, as in diffusers' scripts
_ENCODED_AT_ONCE = 16


@dataclass(frozen=True)
class Encoded:
    """N examples as the denoiser sees them: latents ``[N, P, C, h, w]`` of P pictures each, and their prompts.

    P is 1, or 2 for pairs, the better picture first.
    """

    latents: Tensor
    condition: Condition

    @property
    def pictures_each(self) -> int:
        return self.latents.shape[1]


@torch.no_grad()
def encoded(examples: Iterable[Example], generator: Adapter, decoder: Decoder) -> Encoded:
    """Encode pictures and prompts once, onto the CPU; neither the VAE nor a text encoder is trained."""
    latents: list[Tensor] = []
    conditions: list[Condition] = []
    remaining = iter(examples)
    while batch := list(islice(remaining, _ENCODED_AT_ONCE)):
        pictures = torch.stack([torch.stack(example.pictures) for example in batch])
        flat = to_latents(decoder, pictures.flatten(0, 1))
        latents.append(flat.unflatten(0, pictures.shape[:2]).cpu())
        condition = generator.encode([generator.plain(example.prompt) for example in batch])
        conditions.append(tuple(part.cpu() for part in condition))
    parts = zip(*conditions, strict=True)
    return Encoded(torch.cat(latents), tuple(torch.cat(part) for part in parts))


def to_latents(decoder: Decoder, images: Tensor) -> Tensor:
    """z_0 ``[B, C, h, w]`` float32 of images ``[B, 3, H, W]`` in [0, 1]: what the decoder makes images of."""
    vae = decoder.vae
    config = vae.config
    pixels = images.to(vae.device, vae.dtype) * 2 - 1
    encoded = vae.encode(pixels)
    latents: Tensor = encoded.latents if "latents" in encoded else encoded.latent_dist.mode()
    statistics = latent_statistics(vae, latents)
    if statistics is not None:
        mean, std = statistics
        scaled: Tensor = (latents - mean) * config.scaling_factor / std
    else:
        scaled = (latents - (config.get("shift_factor") or 0)) * config.scaling_factor
    return scaled.float()


def fit(
    denoiser: Denoiser, examples: Encoded, options: TrainingOptions, seed: int, on_step: Callable[[int], None]
) -> list[float]:
    """Train the denoiser's network in place, and return the loss of each step.

    Every step sees ``options.batch_size`` pictures: as many examples, or half as many pairs.

    Args:
        seed: of the examples' order, the noises and the times.
        on_step: called with 1 after each step.

    Raises:
        RunError: the loss is no longer finite.
    """
    of_pairs = examples.pictures_each == 2
    network = denoiser.network
    reference = copy.deepcopy(network).eval().requires_grad_(False) if of_pairs else None
    network.train().requires_grad_(True)
    rate = options.dpo_learning_rate if of_pairs else options.learning_rate
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    draws = torch.Generator().manual_seed(seed)
    batches = _batches(len(examples.latents), options.batch_size // examples.pictures_each, draws)
    losses: list[float] = []
    for _ in range(options.steps):
        loss = step_loss(denoiser, reference, examples, next(batches), draws, options.beta)
        if not math.isfinite(loss.item()):
            option = "--dpo-learning-rate" if of_pairs else "--learning-rate"
            raise RunError(f"{option} {rate:g}: the loss became {loss.item()} after {len(losses)} steps; lower it")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(loss.item())
        on_step(1)
    network.eval().requires_grad_(False)
    return losses


def step_loss(
    denoiser: Denoiser,
    reference: nn.Module | None,
    examples: Encoded,
    positions: Tensor,
    draws: torch.Generator,
    beta: float,
) -> Tensor:
    """The loss of one batch: Diffusion-DPO's where there is a reference. Both pictures of a pair share noise and time.

    Args:
        reference: the network before training, for pairs.
        positions: which examples ``[B]``.
        draws: draws noises and times on the CPU, so that they are the same on every device.
    """
    latents = examples.latents[positions].to(denoiser.device)
    condition = tuple(part[positions].to(denoiser.device) for part in examples.condition)
    noise = torch.randn(latents[:, 0].shape, generator=draws).to(latents)
    times = torch.rand(len(positions), generator=draws).to(latents)

    def errors(network: nn.Module, picture: int) -> Tensor:
        return denoiser.errors(network, latents[:, picture], noise, times, condition)

    if reference is None:
        return tuning_loss(errors(denoiser.network, 0))
    with torch.no_grad():
        before = [errors(reference, picture) for picture in (0, 1)]
    now = [errors(denoiser.network, picture) for picture in (0, 1)]
    return dpo_loss(now[0], now[1], before[0], before[1], beta)


def _batches(count: int, size: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of positions; each position comes once before any comes again."""
    waiting = torch.empty(0, dtype=torch.long)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=draws)])
        yield waiting[:size]
        waiting = waiting[size:]
