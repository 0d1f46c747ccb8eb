"""Stage ``refine``: the scorer trained further on the diffusion model's own pictures, labelled by the judge.

A scorer that has seen only renders is fooled by pictures that are almost right. Here half of each batch are generated
pictures: the objects that the judge finds in them make a scene, whose questions have known answers, and the prompt of
the picture is asked with the judge's verdict as the answer. The other half are renders, so that nothing is forgotten.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from noisesmith.pipeline.embedded.geometry import holds, truth
from noisesmith.pipeline.embedded.grammar import ANIMALS, WEARABLES, ScenePrompt, parse, prompts
from noisesmith.pipeline.embedded.judge import Detection, Judge
from noisesmith.pipeline.embedded.training.data import batches, pictures, wear
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit
from noisesmith.pipeline.embedded.training.packing import (
    NO_TARGET,
    Segment,
    Words,
    pack,
    packed_logits,
    segments,
    words,
)
from noisesmith.pipeline.embedded.training.scenes import Item, Scene, sample
from noisesmith.pipeline.embedded.training.student import Student, dense_loss
from noisesmith.pipeline.embedded.training.vlm import QUESTIONS

SETTINGS = StageSettings("refine", steps=1500, batch=24, lr=4e-4, warmup=50, ema=0.99)
SAMPLES = 6000  # pictures in the pool
SURE = 0.55  # confidence from which a detection is a label
DOUBTFUL = 0.3  # a picture with a detection between this and SURE is left out
GUIDANCE = 1.5
STEPS = 10
NO_BACKGROUND = (0.0, 0.0, 0.0)  # scenes from detections are asked about, and never rendered


def paint_pool(pipe: StableDiffusionPipeline, seed: int, count: int, path: Path) -> tuple[Tensor, list[str]]:
    """Generated pictures uint8 [count, 3, 64, 64] of prompts of both grammars in turn; ``path`` caches them."""
    if path.exists():
        stored = torch.load(path, weights_only=True)
        return stored["images"], stored["prompts"]
    streams = itertools.cycle([prompts("complex", seed + 50_000), prompts("simple", seed + 50_000)])
    texts = [str(next(stream)) for stream in itertools.islice(streams, count)]
    generator = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    for start in range(0, count, 50):
        out = pipe(
            texts[start : start + 50],
            height=64,
            width=64,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=generator,
            output_type="pt",
        ).images
        parts.append((out * 255).round().to(torch.uint8))
    images = torch.cat(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"images": images, "prompts": texts}, path)
    return images, texts


def as_scene(found: list[Detection]) -> Scene | None:
    """The scene that detections amount to; ``None`` unless they are one or two different objects, all confident."""
    if not 1 <= len(found) <= 2:
        return None
    if min(detection.confidence for detection in found) < SURE:
        return None
    if len(found) == 2 and found[0].noun == found[1].noun:
        return None  # asking which of two cats is above the other has no wrong answer
    items: list[Item] = []
    for one in found:
        items.append(Item(one.noun, one.colour, one.x, one.y, round(one.size)))
    if len(items) == 1:
        return Scene((items[0],), "single", NO_BACKGROUND)
    for upper, lower in (items, items[::-1]):
        layout = _layout(upper, lower)
        if layout is not None:
            return Scene((upper, lower), layout, NO_BACKGROUND)
    left_to_right = sorted(items, key=lambda item: item.x)
    return Scene(tuple(left_to_right), "and", NO_BACKGROUND)


def _layout(upper: Item, lower: Item) -> str | None:
    """The layout in which the first object is worn by, on or above the second; ``None`` where there is none."""
    can_be_worn = upper.noun in WEARABLES and lower.noun in ANIMALS
    if can_be_worn and holds("with", lower, upper) and not holds("on", upper, lower):
        return "with"
    for layout in ("on", "above"):
        if holds(layout, upper, lower):
            return layout
    return None


def labelled(found: list[Detection], prompt: ScenePrompt, rng: random.Random, words: Words) -> list[Segment] | None:
    """Questions about a generated picture, its own prompt last; ``None`` where the judge is in doubt."""
    if any(DOUBTFUL < detection.confidence < SURE for detection in found):
        return None
    rows: list[Segment] = []
    scene = as_scene(found)
    if scene is not None:
        rows += segments(scene, rng, words, QUESTIONS - 2)
    ids = [words.vocabulary[word] for word in str(prompt).split()] + words.closing
    verdict = words.yes if truth(found, prompt) else words.no
    rows.append((ids, [NO_TARGET] * (len(ids) - 1) + [verdict]))
    return rows


@dataclass(frozen=True)
class Pool:
    """Generated pictures uint8 [N, 3, 64, 64], what the judge found in each, and their prompts."""

    images: Tensor
    found: list[list[Detection]]
    prompts: list[ScenePrompt | None]

    def draw(self, rng: random.Random, words: Words, count: int) -> tuple[Tensor, list[list[Segment]]]:
        """``count`` random pictures that the judge is sure about, as float in 0..1, with their questions."""
        rows: list[list[Segment]] = []
        chosen: list[int] = []
        while len(rows) < count:
            index = rng.randrange(len(self.images))
            prompt = self.prompts[index]
            row = None if prompt is None else labelled(self.found[index], prompt, rng, words)
            if row is not None:
                rows.append(row)
                chosen.append(index)
        return self.images[chosen].float() / 255, rows


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL,
    judge: Judge,
    sd_folder: Path,
    vlm: LlavaForConditionalGeneration,
    settings: StageSettings = SETTINGS,
    log: Log = print,
    samples: int = SAMPLES,
) -> LlavaForConditionalGeneration:
    """Continue from ``vlm`` (or resume).

    Args:
        sd_folder: the diffusion model that paints the pictures.
        samples: how many pictures it paints.
    """
    pipe = StableDiffusionPipeline.from_pretrained(sd_folder)
    pipe.set_progress_bar_config(disable=True)
    judge.eval()
    images, texts = paint_pool(pipe, seed, samples, checkpoints / "refine-pool.pt")
    found: list[list[Detection]] = []
    for part in batches(images, 100):
        found += judge.detect(part.float() / 255)
    pool = Pool(images, found, [parse(text) for text in texts])
    torch.manual_seed(seed)
    student = Student()
    student.vlm.load_state_dict(vlm.state_dict())
    known_words = words()

    def loss_fn(_step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        half = settings.batch // 2
        painted, rows = pool.draw(rng, known_words, half)
        scenes = [sample(rng) for _ in range(settings.batch - half)]
        rendered = wear(pictures(scenes), rng, vae, 0.5)
        tokens = student.patches(torch.cat([wear(painted, rng, None), rendered]))
        dense, _ = dense_loss(student, tokens[half:], scenes, known_words)
        rows += [segments(scene, rng, known_words, QUESTIONS) for scene in scenes]
        loss, metrics = _answer_loss(student, tokens, rows, known_words, half)
        return 2 * loss + 0.25 * dense, metrics

    module = fit(settings, student, loss_fn, seed, checkpoints, log)
    assert isinstance(module, Student)
    return module.vlm


def _answer_loss(
    student: Student, tokens: Tensor, rows: Sequence[Sequence[Segment]], words: Words, half: int
) -> tuple[Tensor, dict[str, float]]:
    """The loss of the answers, and the accuracies on generated pictures (the first ``half``) and on renders."""
    packed = pack(rows)
    logits = packed_logits(student.vlm, tokens, words, packed)
    answer = (packed.target == words.yes) | (packed.target == words.no)
    loss = F.cross_entropy(logits[answer], packed.target[answer])
    says_yes = logits[..., words.yes] > logits[..., words.no]
    right = (says_yes == (packed.target == words.yes)).float()
    metrics = {
        "answers": loss.item(),
        "on_samples": right[:half][answer[:half]].mean().item(),
        "on_renders": right[half:][answer[half:]].mean().item(),
    }
    return loss, metrics
