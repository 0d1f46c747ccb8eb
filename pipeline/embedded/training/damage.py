"""Objects that are there in part only: what a detector must not take for the real thing.

A diffusion model leaves smudges, faded shapes, halves, and mixtures of two objects. Here objects of rendered scenes are
spoiled in these ways until the eye would no longer name them. The scene then counts as one without them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from noisesmith.pipeline.embedded.geometry import SIZE, half_extent
from noisesmith.pipeline.embedded.grammar import ANIMALS, THINGS
from noisesmith.pipeline.embedded.training.data import decoded, encoded, pictures
from noisesmith.pipeline.embedded.training.scenes import Item, Scene

CELL = 8  # pixels per latent cell
# Objects that cannot be named by their outline alone: other things have the same one.
KNOWN_BY_INSIDE = ("clock", "cat", "dog", "bear", "lion", "monkey", "frog", "mouse")


@dataclass(frozen=True)
class Target:
    """An object to spoil: its item and scene, the picture of the scene, and the picture ``without`` the object.

    Pictures are float [3, 64, 64] in 0..1.
    """

    item: Item
    scene: Scene
    image: Tensor
    without: Tensor


def box(item: Item) -> tuple[slice, slice]:
    """Rows and columns of the picture that the object covers."""
    half_width, half_height = half_extent(item)
    rows = slice(max(0, round(item.y - half_height)), min(SIZE, round(item.y + half_height)))
    columns = slice(max(0, round(item.x - half_width)), min(SIZE, round(item.x + half_width)))
    return rows, columns


def touched_cells(item: Item) -> Tensor:
    """The latent cells that the object touches: float [1, 8, 8] of 0 and 1."""
    mask = torch.zeros(1, SIZE, SIZE)
    rows, columns = box(item)
    mask[:, rows, columns] = 1.0
    return F.max_pool2d(mask, CELL)


def without(scene: Scene, item: Item) -> Scene:
    """The scene, one object less."""
    others = tuple(other for other in scene.items if other is not item)
    return replace(scene, items=others, layout="single" if len(others) == 1 else scene.layout)


def exchanged(scene: Scene, item: Item, rng: random.Random) -> Scene:
    """The scene with another object of the same kind, size and colour in the place of one."""
    nouns = ANIMALS if item.noun in ANIMALS else THINGS
    other = replace(item, noun=rng.choice([noun for noun in nouns if noun != item.noun]))
    return replace(scene, items=tuple(other if one is item else one for one in scene.items))


def spoil_some(
    scenes: Sequence[Scene], rng: random.Random, share: float, vae: AutoencoderKL | None, keep: int = 0
) -> tuple[Tensor, list[Scene]]:
    """Pictures of the scenes, a ``share`` of which have one spoiled object.

    Args:
        keep: how many objects of a scene stay as they are, at least.

    Returns:
        float [B, 3, 64, 64] in 0..1, and the scenes without what was spoiled.
    """
    images = pictures(scenes)
    left: list[Scene] = []
    for number, scene in enumerate(scenes):
        if rng.random() >= share or len(scene.items) <= keep:
            left.append(scene)
            continue
        item = rng.choice(scene.items)
        rest = without(scene, item)
        target = Target(item, scene, images[number], pictures([rest])[0])
        if vae is not None and rng.random() < 0.3:
            images[number] = _drowned(target, rng, vae)
        else:
            images[number] = rng.choice(WAYS)(target, rng)
        left.append(rest)
    return images, left


def _smudged(target: Target, rng: random.Random) -> Tensor:
    """Only the colours of the object are left, where it was."""
    width = rng.choice((9, 11, 13))
    difference = target.image - target.without
    for _ in range(2):
        difference = F.avg_pool2d(difference[None], width, 1, width // 2)[0]
    return (target.without + difference * rng.uniform(1.0, 1.8)).clamp(0, 1)


def _faded(target: Target, rng: random.Random) -> Tensor:
    """So faint that it is almost background."""
    blurred = F.avg_pool2d((target.image - target.without)[None], 3, 1, 1)[0]
    return target.without + blurred * rng.uniform(0.03, 0.12)


def _cut(target: Target, rng: random.Random) -> Tensor:
    """A piece of at most a third of the object."""
    rows, columns = box(target.item)
    kept = rng.uniform(0.1, 0.33)
    mask = torch.zeros(SIZE, SIZE)
    mask[rows, columns] = 1.0
    if rng.random() < 0.5:
        middle = rows.start + round((rows.stop - rows.start) * kept)
        mask[middle:] = 0.0
    else:
        middle = columns.start + round((columns.stop - columns.start) * kept)
        mask[:, middle:] = 0.0
    return torch.where(mask.bool(), target.image, target.without)


def _mixed(target: Target, rng: random.Random) -> Tensor:
    """Half of one object and half of another of the same kind."""
    swapped = pictures([exchanged(target.scene, target.item, rng)])[0]
    if rng.random() < 0.4:
        return (target.image + swapped) / 2
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    if rng.random() < 0.5:
        mask[: round(target.item.y)] = True
    else:
        mask[:, : round(target.item.x)] = True
    rows, columns = box(target.item)
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[rows, columns] = True
    return torch.where(mask | ~inside, target.image, swapped)


def _scrambled(target: Target, rng: random.Random) -> Tensor:
    """Its squares of 6 pixels in another order."""
    rows, columns = box(target.item)
    side = 6
    tops = list(range(rows.start, rows.stop - side + 1, side))
    lefts = list(range(columns.start, columns.stop - side + 1, side))
    corners = [(top, left) for top in tops for left in lefts]
    places = corners[:]
    rng.shuffle(places)
    scrambled = target.image.clone()
    for (top, left), (from_top, from_left) in zip(corners, places, strict=True):
        square = target.image[:, from_top : from_top + side, from_left : from_left + side]
        scrambled[:, top : top + side, left : left + side] = square
    smooth = F.avg_pool2d(scrambled[None], 3, 1, 1, count_include_pad=False)[0]
    result = target.image.clone()
    result[:, rows, columns] = smooth[:, rows, columns]
    return result


def _melted(target: Target, rng: random.Random) -> Tensor:
    """Its outline and its parts pulled out of shape."""
    coarse = torch.tensor([rng.gauss(0.0, 1.0) for _ in range(2 * 5 * 5)]).view(1, 2, 5, 5)
    pull = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=True) * rng.uniform(5.0, 7.5) * 2 / SIZE
    axis = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([columns, rows], -1)[None] + pull.permute(0, 2, 3, 1)
    difference = F.grid_sample((target.image - target.without)[None], grid, align_corners=False)
    return (target.without + F.avg_pool2d(difference, 3, 1, 1)[0]).clamp(0, 1)


def _emptied(target: Target, rng: random.Random) -> Tensor:
    """Its outline without what is in it: a plain disc in place of a clock, a head without a face."""
    if target.item.noun not in KNOWN_BY_INSIDE:
        return _melted(target, rng)
    inside = ((target.image - target.without).abs().amax(0, keepdim=True) > 0.08).float()[None]
    width = rng.choice((11, 15))
    colours = F.avg_pool2d(target.image[None] * inside, width, 1, width // 2)
    share = F.avg_pool2d(inside, width, 1, width // 2).clamp(min=1e-3)
    return torch.where(inside[0].bool(), (colours / share)[0], target.image)


@torch.no_grad()
def _drowned(target: Target, rng: random.Random, vae: AutoencoderKL) -> Tensor:
    """Its latents drowned in noise, which the decoder turns into the smears of a failed generation."""
    latents = encoded(vae, target.image[None])
    kept = rng.uniform(0.0, 0.35)
    noise = torch.randn_like(latents) * latents.std() * rng.uniform(0.5, 1.0)
    drowned = torch.where(touched_cells(target.item).bool(), kept * latents + (1 - kept) * noise, latents)
    return decoded(vae, drowned)[0]


WAYS: tuple[Callable[[Target, random.Random], Tensor], ...] = (
    _smudged, _smudged, _faded, _cut, _mixed, _scrambled, _melted, _emptied
)  # fmt: skip
