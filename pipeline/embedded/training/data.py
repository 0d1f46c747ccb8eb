"""Batches of rendered scenes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from noisesmith.pipeline.embedded.grammar import ANIMALS, COLOURS, THINGS
from noisesmith.pipeline.embedded.sprites import aspect
from noisesmith.pipeline.embedded.training.scenes import NORMAL, STEP, Item, Scene, background, crowded, render, sample

Batch = TypeVar("Batch", Tensor, list[str])


def pictures(scenes: Sequence[Scene]) -> Tensor:
    """Rendered scenes as float32 [B, 3, 64, 64] in 0..1."""
    rendered = np.stack([render(scene) for scene in scenes])
    return torch.from_numpy(rendered).permute(0, 3, 1, 2).float().div_(255)


def batches(items: Batch, size: int) -> Iterator[Batch]:
    """Consecutive parts of at most ``size`` images or prompts."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def foreground(scenes: Sequence[Scene], images: Tensor) -> Tensor:
    """Where something is drawn, with a border of one pixel: float32 [B, 1, 64, 64] of 0 and 1."""
    backgrounds = torch.tensor([scene.background for scene in scenes])[:, :, None, None]
    drawn = (images - backgrounds).abs().amax(1, keepdim=True) > 0.02
    return F.max_pool2d(drawn.float(), 3, 1, 1)


def mixture(rng: random.Random, count: int, crowded_share: float, white_share: float = 0.0) -> list[Scene]:
    """``count`` scenes, about ``crowded_share`` of them crowded, at least about ``white_share`` with a white thing."""

    def draw() -> Scene:
        return crowded(rng, rng.randint(3, 6)) if rng.random() < crowded_share else sample(rng)

    return [often_white(rng, white_share, draw) for _ in range(count)]


def often_white(rng: random.Random, share: float, draw: Callable[[], Scene]) -> Scene:
    """What ``draw`` gives, with a probability of at least ``share`` a scene with a white thing."""
    must_be_white = rng.random() < share
    while True:
        scene = draw()
        if not must_be_white or any(item.colour == "white" for item in scene.items):
            return scene


def tiled(rng: random.Random) -> Scene:
    """Four objects, mostly things, one per quarter: the most shapes that one picture can teach."""
    items: list[Item] = []
    for quarter in range(4):
        noun = rng.choice(THINGS) if rng.random() < 0.75 else rng.choice(ANIMALS)
        colour = rng.choice(COLOURS) if noun in THINGS else None
        width, height = (round(NORMAL * side) for side in aspect(noun))
        left = 32 * (quarter % 2) + STEP * rng.randint(0, 2)
        top = 32 * (quarter // 2) + STEP * rng.randint(0, 2)
        items.append(Item(noun, colour, left + width / 2, top + height / 2, NORMAL))
    return Scene(tuple(items), "crowded", background(items, rng))


def encoded(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The scaled latents [B, 16, 8, 8] of pictures [B, 3, 64, 64] in 0..1."""
    latents: Tensor = vae.encode(images * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    return latents


def decoded(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The pictures [B, 3, 64, 64] in 0..1 of scaled latents [B, 16, 8, 8]."""
    images: Tensor = vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1) / 2 + 0.5
    return images


def wear(images: Tensor, rng: random.Random, vae: AutoencoderKL | None, share: float = 0.35) -> Tensor:
    """Degrade pictures as generation does.

    ``share`` of the batch goes through the autoencoder with noise on its latents (not without ``vae``), a fifth is
    blurred, and all of it gets a little pixel noise and a shift of brightness.

    Args:
        images: float [B, 3, 64, 64] in 0..1, left unchanged.

    Returns:
        the same shape and range.
    """
    images = images.clone()
    count = len(images)
    if vae is not None:
        part = torch.tensor(rng.sample(range(count), max(1, int(share * count))))
        with torch.no_grad():
            latents = encoded(vae, images[part])
            noise = torch.randn_like(latents) * latents.std() * torch.rand(len(part), 1, 1, 1) * 0.3
            images[part] = decoded(vae, latents + noise)
    part = torch.tensor(rng.sample(range(count), max(1, count // 5)))
    strength = rng.uniform(0.3, 1.0)
    blurred = F.avg_pool2d(images[part], 3, 1, 1, count_include_pad=False)
    images[part] = torch.lerp(images[part], blurred, strength)
    noise = torch.randn_like(images) * torch.rand(count, 1, 1, 1) ** 2 * 0.06
    shift = (torch.rand(count, 3, 1, 1) - 0.5) * 0.06
    return (images + noise + shift).clamp(0, 1)
