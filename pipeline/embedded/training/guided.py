"""Stage ``guided``: the diffusion model learns to draw without guidance as it draws with it.

Guidance distillation (arXiv 2210.03142): the model before this stage makes pictures with a guidance scale of
:data:`GUIDANCE`, and the model in training predicts on them, noised, what the guided prediction is. Objects become
clear in one pass of the U-Net per step.

Which object is where must stay a matter of the noise, since that is what a search is for. The captions of web pictures
often say it wrongly, and Stable Diffusion learned from such captions. So a share :data:`LOOSE` of the pictures here are
made from another prompt than their caption: the objects of a relation change places.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from noisesmith.pipeline.embedded.grammar import ScenePrompt, parse_own
from noisesmith.pipeline.embedded.training.architectures import new_scheduler
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit
from noisesmith.pipeline.embedded.training.pool import SEED, evaluation_prompts
from noisesmith.pipeline.embedded.training.questions import loosely
from noisesmith.pipeline.embedded.training.sd import DROPOUT, Painter, stratified_timesteps
from noisesmith.pipeline.embedded.training.spin import drawn_latents, often_hard
from noisesmith.pipeline.embedded.training.vocabulary import token_ids

SETTINGS = StageSettings("guided", steps=5000, batch=32, lr=3e-4, warmup=50, ema=0.99)
PICTURES = 8_000
GUIDANCE = 2.5
LOOSE = 0.25
ALONE = 0.15  # share of the prompts of which only the first object is asked for
SEEDS = 200  # the prompts are others than those of the scorers' pictures and of self-play


def sometimes_alone(text: str, rng: random.Random) -> ScenePrompt:
    """The prompt, or in the share :data:`ALONE` its first object alone."""
    prompt = parse_own(text)
    return ScenePrompt(prompt.first) if rng.random() < ALONE else prompt


def lying_on(prompt: ScenePrompt) -> ScenePrompt:
    """The prompt of the picture that is drawn: "a red bow on a dog" for "a dog with a red bow"."""
    wearer, thing = prompt.phrases
    return ScenePrompt(thing, "on", wearer)


def captions(seed: int, count: int) -> list[tuple[str, str]]:
    """``count`` training prompts, each with the prompt that its picture is made from.

    What an animal wears is drawn as lying on it, which the model has learned better. Neither prompt is a pair of an
    evaluation. Objects alone are not held out: there are too few of them.
    """
    rng = random.Random(f"guided/{seed}")
    excluded = evaluation_prompts()
    found: list[tuple[str, str]] = []
    for text in often_hard(SEEDS + seed, count):
        prompt = sometimes_alone(text, rng)
        drawn_from = lying_on(prompt) if prompt.join == "with" else loosely(prompt, rng, LOOSE)
        if str(drawn_from) in excluded:
            drawn_from = prompt
        found.append((str(prompt), str(drawn_from)))
    return found


def guided_latents(painter: Painter, vae: AutoencoderKL, asked: list[str], seed: int, path: Path) -> Tensor:
    """Guided pictures of N prompts as scaled latents [N, 16, 8, 8], kept in ``path``."""
    if not path.exists():
        generator = torch.Generator().manual_seed(SEED + SEEDS + seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(drawn_latents(painter, vae, asked, GUIDANCE, generator), path)
    latents: Tensor = torch.load(path, weights_only=True)
    return latents


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL,
    begin: Painter,
    settings: StageSettings = SETTINGS,
    log: Log = print,
    count: int = PICTURES,
) -> Painter:
    """Train on from ``begin``, in place (or resume), on ``count`` of its own guided pictures."""
    teacher = copy.deepcopy(begin).eval().requires_grad_(False)
    pairs = captions(seed, count)
    path = checkpoints / f"{settings.stage}-pictures.pt"
    latents = guided_latents(teacher, vae, [made_from for _, made_from in pairs], seed, path)
    caption_ids = token_ids([caption for caption, _ in pairs])
    picture_ids = token_ids([made_from for _, made_from in pairs])
    empty = token_ids([""])
    scheduler = new_scheduler()
    painter = begin

    def loss_fn(_step: int, _rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(latents), (settings.batch,))
        noise = torch.randn_like(latents[rows])
        timesteps = stratified_timesteps(settings.batch)
        noisy = scheduler.add_noise(latents[rows], noise, timesteps)
        nothing = torch.rand(settings.batch, 1) < DROPOUT
        with torch.no_grad():
            texts = teacher.text(torch.cat([empty.expand_as(picture_ids[rows]), picture_ids[rows]])).last_hidden_state
            both = teacher.unet(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), texts).sample
            without, with_prompt = both.chunk(2)
            scale = torch.where(nothing, 0.0, GUIDANCE)[:, :, None, None]
            target = torch.lerp(without, with_prompt, scale)
        ids = torch.where(nothing, empty, caption_ids[rows])
        predicted = painter.unet(noisy, timesteps, painter.text(ids).last_hidden_state).sample
        loss = (predicted - target).square().mean()
        return loss, {"loss": loss.item()}

    module = fit(settings, painter, loss_fn, seed, checkpoints, log)
    assert isinstance(module, Painter)
    return module
