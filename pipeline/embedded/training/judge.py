"""Training the judge on renders, worn by noise, blur and the autoencoder's round trip."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from noisesmith.pipeline.embedded.grammar import COLOURS, NOUNS
from noisesmith.pipeline.embedded.judge import SIZE_UNIT, STRIDE, Judge, JudgeConfig
from noisesmith.pipeline.embedded.scenes import SIZE, Scene, crowded, sample
from noisesmith.pipeline.embedded.training.data import pictures, wear
from noisesmith.pipeline.embedded.training.loop import Plan, fit

PLAN = Plan("judge", steps=3600, batch=32, lr=2e-3, warmup=100, ema=0.995)
CELLS = SIZE // STRIDE


def scattered(rng: random.Random) -> Scene:
    """Three or four objects, none hiding another's centre."""
    while True:
        scene = crowded(rng, rng.randint(3, 4))
        spots = [complex(i.x, i.y) for i in scene.items]
        if min(abs(a - b) for a in spots for b in spots if a != b) > 15:
            return scene


def targets(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Noun heat [B, 24, 16, 16] in 0..1, colour index [B, 16, 16] (−100: none), and place [B, 4, 16, 16] (x, y, size,
    weight)."""
    heat = torch.zeros(len(scenes), len(NOUNS), CELLS, CELLS)
    colour = torch.full((len(scenes), CELLS, CELLS), -100)
    place = torch.zeros(len(scenes), 4, CELLS, CELLS)
    axis = torch.arange(CELLS) + 0.5
    for b, scene in enumerate(scenes):
        for item in reversed(scene.items):
            x, y, noun = item.x / STRIDE, item.y / STRIDE, NOUNS.index(item.noun)
            column, row = min(int(x), CELLS - 1), min(int(y), CELLS - 1)
            squared = (axis[:, None] - row - 0.5) ** 2 + (axis[None] - column - 0.5) ** 2
            heat[b, noun] = torch.maximum(heat[b, noun], torch.exp(-squared / 1.6))
            for r in range(max(row - 1, 0), min(row + 2, CELLS)):
                for c in range(max(column - 1, 0), min(column + 2, CELLS)):
                    if item.colour:
                        colour[b, r, c] = COLOURS.index(item.colour)
                    place[b, :, r, c] = torch.tensor((x - c - 0.5, y - r - 0.5, item.size / SIZE_UNIT, 1.0))
    return heat, colour, place


def detection_loss(out: tuple[Tensor, Tensor, Tensor], scenes: Sequence[Scene]) -> tuple[Tensor, dict[str, float]]:
    """Focal loss on the heat maps, cross-entropy on colours, L1 on places."""
    heat, colour, place = targets(scenes)
    logits, colours, places = out
    p = logits.sigmoid().clamp(1e-5, 1 - 1e-5)
    centre = heat == 1
    hit = -((1 - p) ** 2) * p.log()
    miss = -(p**2) * (1 - p).log() * (1 - heat) ** 4
    focal = torch.where(centre, hit, miss).sum() / centre.sum()
    hue = F.cross_entropy(colours, colour)
    where = ((places - place[:, :3]).abs() * place[:, 3:]).sum() / place[:, 3:].sum()
    return focal + hue + where, {"heat": focal.item(), "colour": hue.item(), "place": where.item()}


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL | None,
    plan: Plan = PLAN,
    log: Callable[[str], None] = print,
    on_checkpoint: Callable[[nn.Module], None] | None = None,
) -> Judge:
    """Train from scratch (or resume); with ``vae``, part of every batch goes through its round trip."""
    torch.manual_seed(seed)
    judge = Judge(JudgeConfig())

    def loss_fn(step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        scenes = [scattered(rng) if rng.random() < 0.3 else sample(rng) for _ in range(plan.batch)]
        return detection_loss(judge(wear(pictures(scenes), rng, vae, 0.25)), scenes)

    module = fit(plan, judge, loss_fn, seed, checkpoints, log, on_checkpoint)
    assert isinstance(module, Judge)
    return module
