"""Stage ``spin``: the diffusion model learns to prefer scenes to its own pictures of the same prompts.

Self-play fine-tuning (SPIN-Diffusion, arXiv 2402.10210). In every round the model draws training prompts. Each picture
is the worse one of a pair whose better one is a scene of that prompt, and Diffusion-DPO's loss teaches the difference
from the model at the start of the round. What the model draws as the scenes are has no difference on average, so that
the training ends by itself; what it blurs, mixes up or leaves out has one.

Pairs alone raise the errors on both pictures, the worse one's more, and colours drift until yellow is orange. New
pictures every round and the error on the better picture in the loss (as in arXiv 2404.19733) prevent that.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor

from noisesmith.pipeline.bench.training.losses import dpo_loss
from noisesmith.pipeline.embedded.grammar import parse_own
from noisesmith.pipeline.embedded.training.architectures import new_scheduler
from noisesmith.pipeline.embedded.training.data import batches, encoded, pictures
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit
from noisesmith.pipeline.embedded.training.pool import SEED, drawn, training_prompts
from noisesmith.pipeline.embedded.training.scenes import place
from noisesmith.pipeline.embedded.training.sd import Painter, stratified_timesteps, velocity_errors
from noisesmith.pipeline.embedded.training.vocabulary import text_tokenizer, token_ids

SETTINGS = StageSettings("spin", steps=2200, batch=16, lr=4.5e-5, warmup=10, floor=1.0)
ROUNDS = 44
PROMPTS = 400  # drawn per round
EACH = 2  # pictures per prompt
DRAWN_AT_ONCE = 40
SAMPLER_STEPS = 12
BETA = 500.0  # of Diffusion-DPO
ANCHOR = 60.0  # weight of the error on the better picture
HARD = ("clock", "elephant", "rabbit", "white", "suitcase", "backpack", "bow", "glasses", "with", "on")  # learned last
EASY_KEPT = 0.3  # share of the other prompts that is kept, which makes about 0.85 of all prompts hard ones
SEEDS = 100  # the prompts are others than those of the scorers' pictures


@dataclass(frozen=True)
class Pairs:
    """N pairs of latents [N, 16, 8, 8], a scene and the model's own picture, with their prompt's token ids [N, 16]."""

    scenes: Tensor
    own: Tensor
    ids: Tensor


def settings_of(number: int, settings: StageSettings, rounds: int) -> StageSettings:
    """The settings of one round. The learning rate is full in the first half of the rounds, and falls to a tenth."""
    rate = settings.lr * max(0.1, min(1.0, 2 * (1 - number / rounds)))
    steps = settings.steps // rounds
    return StageSettings(
        f"{settings.stage}-{number:02}", steps, settings.batch, rate, warmup=settings.warmup, floor=settings.floor
    )


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL,
    begin: Painter,
    settings: StageSettings = SETTINGS,
    log: Log = print,
    prompts: int = PROMPTS,
    rounds: int = ROUNDS,
) -> Painter:
    """Train on from ``begin``, in place (or resume at the round that was interrupted).

    Args:
        settings: ``steps`` are those of all rounds.
        prompts: drawn per round.
    """
    asked = often_hard(SEEDS + seed, rounds * prompts)
    painter = begin
    for number in range(rounds):
        part = asked[number * prompts : (number + 1) * prompts]
        painter = _round(settings_of(number, settings, rounds), seed, checkpoints, vae, painter, part, log)
    return painter


def often_hard(seed: int, count: int) -> list[str]:
    """``count`` training prompts; of those without a word of :data:`HARD` only a share."""
    rng = random.Random(f"hard/{seed}")
    found: list[str] = []
    for prompt in training_prompts(seed, 6 * count):
        hard = any(word in prompt.split() for word in HARD)
        if hard or rng.random() < EASY_KEPT:
            found.append(prompt)
        if len(found) == count:
            return found
    raise AssertionError("most of the prompts are kept")


def _round(
    settings: StageSettings,
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL,
    painter: Painter,
    asked: list[str],
    log: Log,
) -> Painter:
    reference = copy.deepcopy(painter).eval().requires_grad_(False)
    scheduler = new_scheduler()

    @cache
    def pairs() -> Pairs:
        return drawn_pairs(reference, vae, asked, random.Random(f"{settings.stage}/{seed}"))

    def loss_fn(_step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        found = pairs()
        torch.manual_seed(rng.getrandbits(63))  # drawing the pairs may have moved torch's generator
        rows = torch.randint(len(found.own), (settings.batch,))
        noise = torch.randn_like(found.own[rows])
        timesteps = stratified_timesteps(settings.batch)

        def errors(model: Painter) -> tuple[Tensor, Tensor]:
            texts = model.text(found.ids[rows]).last_hidden_state
            clean = torch.cat([found.scenes[rows], found.own[rows]])
            twice = [torch.cat([part, part]) for part in (noise, timesteps, texts)]
            scenes, own = velocity_errors(model.unet, scheduler, clean, *twice).chunk(2)
            return scenes, own

        with torch.no_grad():
            scenes_before, own_before = errors(reference)
        scenes, own = errors(painter)
        change = (scenes - scenes_before).mean()
        loss = dpo_loss(scenes, own, scenes_before, own_before, BETA) + ANCHOR * change
        return loss, {"loss": loss.item(), "scenes": change.item(), "own": (own - own_before).mean().item()}

    module = fit(settings, painter, loss_fn, seed, checkpoints, log)
    assert isinstance(module, Painter)
    return module


@torch.no_grad()
def drawn_pairs(painter: Painter, vae: AutoencoderKL, asked: list[str], rng: random.Random) -> Pairs:
    """:data:`EACH` pictures of every prompt without guidance, each with a scene of it."""
    generator = torch.Generator().manual_seed(SEED + rng.randrange(1 << 40))
    prompts = [prompt for prompt in asked for _ in range(EACH)]
    own = drawn_latents(painter, vae, prompts, 1.0, generator)
    scenes: list[Tensor] = []
    for part in batches(prompts, DRAWN_AT_ONCE):
        scenes.append(encoded(vae, pictures([place(parse_own(prompt), rng) for prompt in part])))
    return Pairs(torch.cat(scenes), own, token_ids(prompts))


@torch.no_grad()
def drawn_latents(
    painter: Painter, vae: AutoencoderKL, asked: list[str], guidance: float, generator: torch.Generator
) -> Tensor:
    """The pictures that a model in training draws of N prompts, as scaled latents [N, 16, 8, 8]."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        unet=painter.unet,
        text_encoder=painter.text,
        tokenizer=text_tokenizer(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return torch.cat(
        [drawn(pipe, part, SAMPLER_STEPS, guidance, generator, "latent") for part in batches(asked, DRAWN_AT_ONCE)]
    )
