"""Scenes as the diffusion model leaves them, and which of their objects can still be recognised.

Scenes of training prompts are encoded, noised and denoised, as in stage ``decoder``. In most of them one object is
first blended, in its latent cells, with another object or with the background. Of this the diffusion model makes what
the caption says, or a smear as in a failed generation. Which it was, a comparison with the render says: an object is
there where its details are, and is not where they are not. Pictures between the two are left out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from noisesmith.pipeline.embedded.grammar import ScenePrompt
from noisesmith.pipeline.embedded.training.damage import exchanged, touched_cells, without
from noisesmith.pipeline.embedded.training.data import decoded, encoded, pictures
from noisesmith.pipeline.embedded.training.decoder import denoised
from noisesmith.pipeline.embedded.training.guided import sometimes_alone
from noisesmith.pipeline.embedded.training.scenes import Item, Scene, place
from noisesmith.pipeline.embedded.training.sd import Painter
from noisesmith.pipeline.embedded.training.spin import often_hard
from noisesmith.pipeline.embedded.training.vocabulary import token_ids

BLENDED = 0.7  # share of the scenes
REMOVED = 0.3  # share of the blended ones that are blended with the background
STEPS = 3  # of the sampler's ten at most; with more, objects would move
# Relative error of an object's details. By eye, all objects with less than the first can be recognised, and nearly none
# with more than the second.
THERE = 0.42
GONE = 0.62
COLOURED = 0.3  # relative error of an object's colours, up to which they count as right
AT_ONCE = 32


@dataclass(frozen=True)
class Redrawn:
    """N pictures, uint8 [N, 3, 64, 64], each with a scene of the objects that can be recognised in it."""

    images: Tensor
    scenes: list[Scene]

    @classmethod
    def made(cls, painter: Painter, vae: AutoencoderKL, seed: int, path: Path, count: int) -> Redrawn:
        """``count`` pictures, kept in ``path``."""
        if not path.exists():
            images: list[Tensor] = []
            scenes: list[Scene] = []
            rng = random.Random(f"{path.stem}/{seed}")
            torch.manual_seed(rng.getrandbits(63))
            asked = often_hard(seed, count)
            while len(scenes) < count:
                part = [sometimes_alone(text, rng) for text in rng.choices(asked, k=AT_ONCE)]
                more, left = redraw(part, rng, vae, painter)
                images.append((more * 255).round().to(torch.uint8))
                scenes += left
            items = [[astuple(item) for item in scene.items] for scene in scenes[:count]]
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"images": torch.cat(images)[:count], "items": items}, path)
        stored = torch.load(path, weights_only=True)
        found = [Scene(tuple(Item(*item) for item in items), "crowded", (0.0, 0.0, 0.0)) for items in stored["items"]]
        return cls(stored["images"], found)


@torch.no_grad()
def redraw(
    asked: Sequence[ScenePrompt], rng: random.Random, vae: AutoencoderKL, painter: Painter
) -> tuple[Tensor, list[Scene]]:
    """Pictures of scenes of the prompts, without those whose objects are neither there nor gone.

    Returns:
        float [B, 3, 64, 64] in 0..1 with B at most the number of prompts, and B scenes of what is there.
    """
    scenes = [place(prompt, rng) for prompt in asked]
    others: list[Scene] = []
    weights: list[Tensor] = []
    for scene in scenes:
        other, weight = _blending(scene, rng)
        others.append(other)
        weights.append(weight)
    own, foreign = encoded(vae, pictures([*scenes, *others])).chunk(2)
    captions = token_ids([str(prompt) for prompt in asked])
    latents = denoised(painter, torch.lerp(own, foreign, torch.stack(weights)), captions, rng.randint(0, STEPS))
    images = decoded(vae, latents)
    kept: list[int] = []
    left: list[Scene] = []
    for number, (scene, other) in enumerate(zip(scenes, others, strict=True)):
        there = _recognised(images[number], scene, other)
        if there is not None:
            kept.append(number)
            left.append(replace(scene, items=there))
    return images[kept], left


def _blending(scene: Scene, rng: random.Random) -> tuple[Scene, Tensor]:
    """Another scene to blend this one with, and its weight in each latent cell: float [1, 8, 8]."""
    item = rng.choice(scene.items)
    if rng.random() >= BLENDED:
        return scene, torch.zeros_like(touched_cells(item))
    other = without(scene, item) if rng.random() < REMOVED else exchanged(scene, item, rng)
    return other, rng.uniform(0.3, 1.0) * touched_cells(item)


def _recognised(image: Tensor, scene: Scene, other: Scene) -> tuple[Item, ...] | None:
    """The items of both scenes that are in the picture; ``None`` where one is doubtful."""
    there: list[Item] = []
    candidates = [(item, scene) for item in scene.items]
    candidates += [(item, other) for item in other.items if item not in scene.items]
    for item, its_scene in candidates:
        details, colours = errors(image, its_scene, item)
        if details <= THERE and colours <= COLOURED:
            there.append(item)
        elif details < GONE:
            return None
    return tuple(there)


def errors(image: Tensor, scene: Scene, item: Item) -> tuple[float, float]:
    """How far an object of a picture is from its render: relative errors of details and of colours.

    Args:
        image: float [3, 64, 64] in 0..1.
    """
    render, background = pictures([scene, without(scene, item)])
    mask = ((render - background).abs().amax(0, keepdim=True) > 0.05).float()[None]
    around = F.max_pool2d(mask, 5, 1, 2)
    details = _details(render)
    detail_error = ((_details(image) - details).abs() * around).sum() / (details.abs() * around).sum()
    colour_error = ((image - render).abs() * mask).sum() / ((render - background).abs() * mask).sum()
    return float(detail_error), float(colour_error)


def _details(image: Tensor) -> Tensor:
    """What a blur of five pixels takes away."""
    return image[None] - F.avg_pool2d(image[None], 5, 1, 2, count_include_pad=False)
