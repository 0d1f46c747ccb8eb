"""Refining the scorer on the diffusion model's own pictures, labelled by the judge.

A scorer that has seen only renders is fooled by pictures that are almost right. Here half of each batch are samples:
the objects the judge finds in them make a scene, whose questions have known answers, and the prompt the sample was
painted for is asked with the judge's verdict. The other half are renders, so that nothing is forgotten.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from noisesmith.pipeline.embedded.grammar import ANIMALS, WEARABLES, ScenePrompt, parse, prompts
from noisesmith.pipeline.embedded.judge import Detection, Judge
from noisesmith.pipeline.embedded.scenes import Item, Scene, holds, sample, truth
from noisesmith.pipeline.embedded.training.data import pictures, wear
from noisesmith.pipeline.embedded.training.loop import Plan, fit
from noisesmith.pipeline.embedded.training.vlm import (
    QUESTIONS,
    Student,
    Words,
    dense_loss,
    pack,
    packed_logits,
    segments,
    words,
)

PLAN = Plan("refine", steps=1500, batch=24, lr=4e-4, warmup=50, ema=0.99)
SAMPLES = 6000
SURE = 0.55
GUIDANCE, STEPS = 1.5, 10


def paint_pool(
    pipe: StableDiffusionPipeline, judge: Judge, seed: int, count: int, path: Path
) -> tuple[Tensor, list[str]]:
    """Samples uint8 [count, 3, 64, 64] for prompts of both grammars in turn, kept in ``path``."""
    if path.exists():
        stored = torch.load(path, weights_only=True)
        return stored["images"], stored["prompts"]
    streams = itertools.cycle([prompts("complex", seed + 50_000), prompts("simple", seed + 50_000)])
    texts = [str(next(stream)) for stream in itertools.islice(streams, count)]
    generator = torch.Generator().manual_seed(seed)
    images = []
    for start in range(0, count, 50):
        out = pipe(
            texts[start : start + 50], height=64, width=64, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
            generator=generator, output_type="pt",
        ).images  # fmt: skip
        images.append((out * 255).round().to(torch.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"images": torch.cat(images), "prompts": texts}, path)
    return torch.cat(images), texts


def as_scene(found: list[Detection]) -> Scene | None:
    """The scene that detections amount to; ``None`` unless one object or two of different kinds, all surely seen."""
    if not 1 <= len(found) <= 2 or min(d.confidence for d in found) < SURE:
        return None
    if len({d.noun for d in found}) < len(found):
        return None  # asking which of two cats is above the other has no wrong answer
    items = [Item(d.noun, d.colour, d.x, d.y, round(d.size)) for d in found]
    if len(items) == 1:
        return Scene((items[0],), "single", (0.0, 0.0, 0.0))
    for a, b in (items, items[::-1]):
        if a.noun in WEARABLES and b.noun in ANIMALS and holds("with", b, a) and not holds("on", a, b):
            return Scene((a, b), "with", (0.0, 0.0, 0.0))
        for layout in ("on", "above"):
            if holds(layout, a, b):
                return Scene((a, b), layout, (0.0, 0.0, 0.0))
    return Scene(tuple(sorted(items, key=lambda i: i.x)), "and", (0.0, 0.0, 0.0))


def labelled(
    found: list[Detection], prompt: ScenePrompt, rng: random.Random, w: Words
) -> list[tuple[list[int], list[int]]] | None:
    """Questions about a sample, its own prompt first; ``None`` where the judge is not sure."""
    if any(0.3 < d.confidence < SURE for d in found):
        return None
    scene = as_scene(found)
    own = [w.vocabulary[word] for word in str(prompt).split()]
    verdict = w.yes if truth(found, prompt) else w.no
    rows = segments(scene, rng, w, QUESTIONS - 2) if scene is not None else []
    return [*rows, (own + w.closing, [-100] * (len(own) + len(w.closing) - 1) + [verdict])]


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL,
    judge: Judge,
    sd_folder: Path,
    vlm: LlavaForConditionalGeneration,
    plan: Plan = PLAN,
    log: Callable[[str], None] = print,
    samples: int = SAMPLES,
) -> LlavaForConditionalGeneration:
    """Continue from ``vlm`` (or resume)."""
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder)
    pipe.set_progress_bar_config(disable=True)
    judge.eval()
    images, texts = paint_pool(pipe, judge, seed, samples, checkpoints / "refine-pool.pt")
    found = [d for part in images.split(100) for d in judge.detect(part.float() / 255)]
    asked = [parse(text) for text in texts]
    torch.manual_seed(seed)
    student = Student()
    student.vlm.load_state_dict(vlm.state_dict())
    w = words()

    def loss_fn(step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        half = plan.batch // 2
        rows: list[list[tuple[list[int], list[int]]]] = []
        chosen: list[int] = []
        while len(rows) < half:
            index = rng.randrange(len(images))
            prompt = asked[index]
            row = labelled(found[index], prompt, rng, w) if prompt is not None else None
            if row is not None:
                rows.append(row)
                chosen.append(index)
        scenes = [sample(rng) for _ in range(plan.batch - half)]
        rendered = wear(pictures(scenes), rng, vae, 0.5)
        worn = wear(images[chosen].float() / 255, rng, None)
        tokens = student.patches(torch.cat([worn, rendered]))
        dense, _ = dense_loss(student, tokens[half:], scenes, w)
        packed = pack(rows + [segments(s, rng, w, QUESTIONS) for s in scenes])
        logits = packed_logits(student.vlm, tokens, w, packed)
        asked_at = (packed.target == w.yes) | (packed.target == w.no)
        loss = F.cross_entropy(logits[asked_at], packed.target[asked_at])
        right = ((logits[..., w.yes] > logits[..., w.no]) == (packed.target == w.yes)).float()
        sampled, drawn = right[:half][asked_at[:half]].mean(), right[half:][asked_at[half:]].mean()
        metrics = {"answers": loss.item(), "on_samples": sampled.item(), "on_renders": drawn.item()}
        return 2 * loss + 0.25 * dense, metrics

    module: nn.Module = fit(plan, student, loss_fn, seed, checkpoints, log)
    assert isinstance(module, Student)
    return module.vlm
