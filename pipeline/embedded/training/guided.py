"""Stages ``guided`` and ``clear``: the diffusion model learns to draw without guidance as it draws with it.

Guidance distillation (arXiv 2210.03142): the model before the stage makes pictures with a guidance scale, and the model
in training predicts on them, noised, what the guided prediction is. Objects become clear in one pass of the U-Net per
step. Stage ``clear`` does this once more for what is still unclear, things that animals wear and white things, while
pictures of other prompts, without guidance, hold what has been learned.

Which object is where must stay a matter of the noise, since that is what a search is for. The captions of web pictures
often say it wrongly, and Stable Diffusion learned from such captions. So a share :data:`LOOSE` of the pictures here are
made from another prompt than their caption: the objects of a relation change places.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from noisesmith.pipeline.embedded.grammar import ScenePrompt, parse_own
from noisesmith.pipeline.embedded.training.architectures import new_scheduler
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit
from noisesmith.pipeline.embedded.training.pool import SEED, evaluation_prompts, training_prompts
from noisesmith.pipeline.embedded.training.questions import loosely
from noisesmith.pipeline.embedded.training.sd import DROPOUT, Painter, stratified_timesteps
from noisesmith.pipeline.embedded.training.spin import drawn_latents, often_hard
from noisesmith.pipeline.embedded.training.vocabulary import token_ids

SETTINGS = StageSettings("guided", steps=5000, batch=32, lr=3e-4, warmup=50, ema=0.99)
CLEAR_SETTINGS = StageSettings("clear", steps=900, batch=32, lr=3e-4, warmup=50, ema=0.99)
PICTURES = {"guided": 8_000, "clear": 3_300}
GUIDANCE = {"guided": 2.5, "clear": 2.0}
LOOSE = 0.25
ALONE = 0.15  # share of the prompts of which only the first object is asked for
SEEDS = {"guided": 200, "clear": 600}  # the prompts are others than those of the other stages
TRIED = 40  # prompts per picture of stage clear: few of them are of the rarest kind


@dataclass(frozen=True)
class Lesson:
    """Captions, each with the prompt that its picture is made from.

    ``share`` is what of every batch comes from them.
    """

    pairs: list[tuple[str, str]]
    guidance: float
    share: float = 1.0


def sometimes_alone(text: str, rng: random.Random) -> ScenePrompt:
    """The prompt, or in the share :data:`ALONE` its first object alone."""
    prompt = parse_own(text)
    return ScenePrompt(prompt.first) if rng.random() < ALONE else prompt


def lying_on(prompt: ScenePrompt) -> ScenePrompt:
    """The prompt of the picture that is drawn: "a red bow on a dog" for "a dog with a red bow"."""
    wearer, thing = prompt.phrases
    return ScenePrompt(thing, "on", wearer)


def lessons(stage: str, seed: int, count: int) -> list[Lesson]:
    """What a stage learns from ``count`` pictures."""
    if stage == "guided":
        return [Lesson(captions(seed, count), GUIDANCE[stage])]
    worn, white, rest = unclear_captions(seed, count)
    scale = GUIDANCE[stage]
    return [Lesson(worn, scale, 0.32), Lesson(white, scale, 0.24), Lesson(rest, 1.0, 0.44)]


def captions(seed: int, count: int) -> list[tuple[str, str]]:
    """``count`` training prompts, each with the prompt that its picture is made from.

    What an animal wears is drawn as lying on it, which the model has learned better. Neither prompt is a pair of an
    evaluation. Objects alone are not held out: there are too few of them.
    """
    rng = random.Random(f"guided/{seed}")
    excluded = evaluation_prompts()
    return [_pair(text, rng, excluded) for text in often_hard(SEEDS["guided"] + seed, count)]


def unclear_captions(seed: int, count: int) -> tuple[list[tuple[str, str]], ...]:
    """``count`` captions with the prompts of their pictures: 0.45 of what animals wear, 0.275 each of white things and
    of the rest, whose pictures are always made from their captions."""
    rng = random.Random(f"clear/{seed}")
    excluded = evaluation_prompts()
    kinds: tuple[list[tuple[str, str]], ...] = ([], [], [])
    others = round(0.275 * count)
    wanted = (count - 2 * others, others, others)
    for text in training_prompts(SEEDS["clear"] + seed, TRIED * count):
        caption, made_from = _pair(text, rng, excluded)
        words = caption.split()
        kind = 0 if "with" in words else 1 if "white" in words else 2
        if kind == 0 and made_from == caption:  # the prompt with "on" belongs to an evaluation
            continue
        if len(kinds[kind]) < wanted[kind]:
            kinds[kind].append((caption, caption if kind == 2 else made_from))
    assert tuple(map(len, kinds)) == wanted
    return kinds


def _pair(text: str, rng: random.Random, excluded: set[str]) -> tuple[str, str]:
    """A training prompt, or its first object alone, with the prompt that its picture is made from."""
    prompt = sometimes_alone(text, rng)
    drawn_from = lying_on(prompt) if prompt.join == "with" else loosely(prompt, rng, LOOSE)
    if str(drawn_from) in excluded:
        drawn_from = prompt
    return str(prompt), str(drawn_from)


def guided_latents(
    painter: Painter, vae: AutoencoderKL, taught: Sequence[Lesson], generator_seed: int, path: Path
) -> Tensor:
    """Guided pictures of all N prompts as scaled latents [N, 16, 8, 8], kept in ``path``."""
    if not path.exists():
        generator = torch.Generator().manual_seed(generator_seed)
        parts: list[Tensor] = []
        for lesson in taught:
            asked = [made_from for _, made_from in lesson.pairs]
            parts.append(drawn_latents(painter, vae, asked, lesson.guidance, generator))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.cat(parts), path)
    latents: Tensor = torch.load(path, weights_only=True)
    return latents


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL,
    begin: Painter,
    settings: StageSettings = SETTINGS,
    log: Log = print,
    count: int | None = None,
) -> Painter:
    """Train on from ``begin``, in place (or resume), on ``count`` of its own pictures."""
    stage = settings.stage
    teacher = copy.deepcopy(begin).eval().requires_grad_(False)
    taught = lessons(stage, seed, count or PICTURES[stage])
    path = checkpoints / f"{stage}-pictures.pt"
    latents = guided_latents(teacher, vae, taught, SEED + SEEDS[stage] + seed, path)
    pairs = [pair for lesson in taught for pair in lesson.pairs]
    caption_ids = token_ids([caption for caption, _ in pairs])
    picture_ids = token_ids([made_from for _, made_from in pairs])
    scales = torch.tensor([lesson.guidance for lesson in taught for _ in lesson.pairs])
    empty = token_ids([""])
    scheduler = new_scheduler()
    painter = begin

    def loss_fn(_step: int, _rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        rows = _drawn_rows(taught, settings.batch)
        noise = torch.randn_like(latents[rows])
        timesteps = stratified_timesteps(settings.batch)
        noisy = scheduler.add_noise(latents[rows], noise, timesteps)
        nothing = torch.rand(settings.batch, 1) < DROPOUT
        with torch.no_grad():
            texts = teacher.text(torch.cat([empty.expand_as(picture_ids[rows]), picture_ids[rows]])).last_hidden_state
            both = teacher.unet(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), texts).sample
            without, with_prompt = both.chunk(2)
            scale = torch.where(nothing, 0.0, scales[rows, None])[:, :, None, None]
            target = torch.lerp(without, with_prompt, scale)
        ids = torch.where(nothing, empty, caption_ids[rows])
        predicted = painter.unet(noisy, timesteps, painter.text(ids).last_hidden_state).sample
        loss = (predicted - target).square().mean()
        return loss, {"loss": loss.item()}

    module = fit(settings, painter, loss_fn, seed, checkpoints, log)
    assert isinstance(module, Painter)
    return module


def _drawn_rows(taught: Sequence[Lesson], batch: int) -> Tensor:
    """Random rows of all lessons, as many of each as its share of a batch says: int64 [B].

    In random order, since the times of a batch rise.
    """
    rows: list[Tensor] = []
    start = 0
    left = batch
    for number, lesson in enumerate(taught, 1):
        drawn = left if number == len(taught) else round(lesson.share * batch)
        rows.append(start + torch.randint(len(lesson.pairs), (drawn,)))
        start += len(lesson.pairs)
        left -= drawn
    return torch.cat(rows)[torch.randperm(batch)]
