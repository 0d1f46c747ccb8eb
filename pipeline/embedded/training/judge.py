"""Stages ``judge`` and ``detector``: trained on renders that are degraded as generated pictures are.

A half of every batch are renders with noise and blur, some of them through the autoencoder; some objects are spoiled
(``damage.py``) and must not be found, and some are there twice. The other half are scenes that the diffusion model has
drawn again, with the objects that can still be recognised (``redrawn.py``). The two detectors differ in architecture,
seed and data, so that one can label what the scorers learn from, and the other can judge them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from noisesmith.pipeline.embedded.geometry import SIZE
from noisesmith.pipeline.embedded.grammar import COLOURS, NOUNS, THINGS
from noisesmith.pipeline.embedded.judge import SIZE_UNIT, STRIDE, Judge, JudgeConfig
from noisesmith.pipeline.embedded.training.damage import spoil_some
from noisesmith.pipeline.embedded.training.data import wear
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit
from noisesmith.pipeline.embedded.training.redrawn import Redrawn
from noisesmith.pipeline.embedded.training.scenes import Item, Scene, background, crowded, sample
from noisesmith.pipeline.embedded.training.sd import Painter

SETTINGS = StageSettings("judge", steps=4000, batch=32, lr=1e-3, warmup=100, ema=0.995)
DETECTOR_SETTINGS = StageSettings("detector", steps=4000, batch=32, lr=1.5e-3, warmup=200, ema=0.995)
# Confidence from which an object counts as found: the best on labelled images of which no figure is reported
# (``eye.py``): ``practice`` for the judge, and the development half of ``v1`` too for the detector.
THRESHOLDS = {"judge": 0.34, "detector": 0.34}
SPOILED = 0.35  # share of scenes with a spoiled object
DOUBLED = 0.1  # share of scenes with an object twice
REDRAWN_SHARE = 0.5  # of every batch
REDRAWN = 8_000
SHIFT = 3
SEEDS = {"judge": 400, "detector": 500}  # the prompts are others than those of the other stages
CELLS = SIZE // STRIDE


def scattered(rng: random.Random) -> Scene:
    """Three or four objects, none of which hides another's centre."""
    while True:
        scene = crowded(rng, rng.randint(3, 4))
        distances = [math.dist((a.x, a.y), (b.x, b.y)) for a, b in itertools.combinations(scene.items, 2)]
        if min(distances) > 15:
            return scene


def targets(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """The maps that the judge should predict for these scenes.

    Returns:
        noun heat [B, 24, 16, 16] in 0..1, colour index [B, 16, 16] (−100: none), and [B, 4, 16, 16] of x offset,
        y offset, size and weight (1 near an object's centre, else 0).
    """
    heat = torch.zeros(len(scenes), len(NOUNS), CELLS, CELLS)
    colour = torch.full((len(scenes), CELLS, CELLS), -100)
    place = torch.zeros(len(scenes), 4, CELLS, CELLS)
    for number, scene in enumerate(scenes):
        # In drawing order, so that where two objects share a cell the upper one has it.
        for item in reversed(scene.items):
            _mark(item, heat[number], colour[number], place[number])
    return heat, colour, place


def _mark(item: Item, heat: Tensor, colour: Tensor, place: Tensor) -> None:
    """Write one item into the maps of its picture, in place: a bump of heat, and the 3×3 cells around its centre."""
    x = item.x / STRIDE
    y = item.y / STRIDE
    column = min(int(x), CELLS - 1)
    row = min(int(y), CELLS - 1)
    noun = NOUNS.index(item.noun)
    axis = torch.arange(CELLS) + 0.5
    squared = (axis[:, None] - row - 0.5) ** 2 + (axis[None] - column - 0.5) ** 2
    heat[noun] = torch.maximum(heat[noun], torch.exp(-squared / 1.6))
    for r in range(max(row - 1, 0), min(row + 2, CELLS)):
        for c in range(max(column - 1, 0), min(column + 2, CELLS)):
            if item.colour is not None:
                colour[r, c] = COLOURS.index(item.colour)
            place[:, r, c] = torch.tensor((x - c - 0.5, y - r - 0.5, item.size / SIZE_UNIT, 1.0))


def detection_loss(out: tuple[Tensor, Tensor, Tensor], scenes: Sequence[Scene]) -> tuple[Tensor, dict[str, float]]:
    """Focal loss on the heat maps (arXiv 1904.07850, equation 1), cross-entropy on colours, L1 on offsets and size."""
    heat, colour, place = targets(scenes)
    logits, colours, places = out
    chance = logits.sigmoid().clamp(1e-5, 1 - 1e-5)
    centre = heat == 1
    hit = -((1 - chance) ** 2) * chance.log()
    miss = -(chance**2) * (1 - chance).log() * (1 - heat) ** 4
    focal = torch.where(centre, hit, miss).sum() / centre.sum().clamp(min=1)
    hue = F.cross_entropy(colours, colour)
    where = ((places - place[:, :3]).abs() * place[:, 3:]).sum() / place[:, 3:].sum().clamp(min=1)
    return focal + hue + where, {"heat": focal.item(), "colour": hue.item(), "place": where.item()}


def doubled(rng: random.Random) -> Scene:
    """One object twice, perhaps in two colours, and apart from each other."""
    scene = sample(rng, "and")
    first, second = scene.items
    colour = first.colour if first.noun in THINGS else None
    twin = replace(second, noun=first.noun, colour=colour)
    items = (first, twin)
    return replace(scene, items=items, background=background(items, rng))


def _scene(rng: random.Random) -> Scene:
    kind = rng.random()
    if kind < DOUBLED:
        return doubled(rng)
    return scattered(rng) if kind < DOUBLED + 0.3 else sample(rng)


def shifted(images: Tensor, scenes: Sequence[Scene], rng: random.Random) -> tuple[Tensor, list[Scene]]:
    """Pictures and scenes moved by up to :data:`SHIFT` pixels: renders lie on a grid, generated objects need not."""
    padded = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT), mode="replicate")
    parts: list[Tensor] = []
    moved: list[Scene] = []
    for image, scene in zip(padded, scenes, strict=True):
        dx, dy = rng.randint(-SHIFT, SHIFT), rng.randint(-SHIFT, SHIFT)
        top, left = SHIFT - dy, SHIFT - dx
        parts.append(image[:, top : top + SIZE, left : left + SIZE])
        items = tuple(replace(item, x=item.x + dx, y=item.y + dy) for item in scene.items)
        moved.append(replace(scene, items=items))
    return torch.stack(parts), moved


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL | None,
    painter: Painter | None,
    begin: Judge | None = None,
    settings: StageSettings = SETTINGS,
    log: Log = print,
    count: int = REDRAWN,
) -> Judge:
    """Train a detector from scratch, or on from the weights of ``begin`` (or resume).

    Args:
        vae: a part of every batch goes through it.
        painter: the diffusion model that draws with ``vae``; without it all of a batch are renders.
        count: scenes that it draws again.
        settings: the stage's name decides the architecture.
    """
    trunk = "residual" if settings.stage == "judge" else "convnext"
    torch.manual_seed(seed)
    judge = Judge(JudgeConfig(trunk=trunk, threshold=THRESHOLDS[settings.stage]))
    if begin is not None:
        judge.load_state_dict(begin.state_dict())

    redrawn: Redrawn | None = None
    if vae is not None and painter is not None:
        path = checkpoints / f"{settings.stage}-redrawn.pt"
        redrawn = Redrawn.made(painter, vae, SEEDS[settings.stage] + seed, path, count)
    drawn_again = round(REDRAWN_SHARE * settings.batch) if redrawn else 0

    def loss_fn(_step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        scenes = [_scene(rng) for _ in range(settings.batch - drawn_again)]
        images, left = spoil_some(scenes, rng, SPOILED, vae)
        images = wear(images, rng, vae, 0.35)
        if redrawn is not None:
            rows = rng.choices(range(len(redrawn.scenes)), k=drawn_again)
            images = torch.cat([images, redrawn.images[rows].float() / 255])
            left += [redrawn.scenes[row] for row in rows]
        images, left = shifted(images, left, rng)
        return detection_loss(judge(images), left)

    module = fit(settings, judge, loss_fn, seed, checkpoints, log)
    assert isinstance(module, Judge)
    return module
