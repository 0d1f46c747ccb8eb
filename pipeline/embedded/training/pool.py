"""Generated pictures, labelled by the second detector, which a scorer is trained on.

A scorer that has seen only renders is fooled by pictures that are almost right. So it learns from what the diffusion
model draws for random noise, and from everything that searches come across while they climb the scorers' own score.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

import noisesmith as ns
from noisesmith.pipeline.embedded.geometry import holds, truth
from noisesmith.pipeline.embedded.grammar import (
    ANIMALS,
    COLOURS,
    GRAMMARS,
    WEARABLES,
    Phrase,
    ScenePrompt,
    parse_own,
    prompts,
)
from noisesmith.pipeline.embedded.judge import Detection, Judge
from noisesmith.pipeline.embedded.training.data import batches
from noisesmith.pipeline.embedded.training.eye import REPORTED, read_seen
from noisesmith.pipeline.embedded.training.packing import Segment, Words, about, segments
from noisesmith.pipeline.embedded.training.scenes import Item, Scene
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.scorers.base import ImageScorer

PAINTED = 12_000  # pictures of random noise
SEARCHED = 640  # prompts searched
ROUNDS = 6
STEPS = 12  # of the sampler
BATCH = 40
SEED = 50_000  # of prompts and noises, far from those of any evaluation
EVALUATED = 400  # prompts of each grammar, with seed 0, that are kept for evaluations
SURE = 0.55  # confidence from which a detection is a label
DOUBTFUL = 0.3  # a picture with a detection between this and SURE is left out
OPPOSITE = {"above": ("below", "under"), "below": ("above",), "under": ("above",)}
NO_BACKGROUND = (0.0, 0.0, 0.0)  # scenes from detections are asked about, and never rendered


def paint(sd: Path, seed: int, path: Path, count: int = PAINTED) -> None:
    """Write ``count`` pictures of random noise to ``path``, half of them without guidance.

    Args:
        sd: the diffusion model's folder.
    """
    pipe = StableDiffusionPipeline.from_pretrained(sd)
    pipe.set_progress_bar_config(disable=True)
    asked = training_prompts(seed, count)
    generator = torch.Generator().manual_seed(SEED + seed)
    parts: list[Tensor] = []
    for number, start in enumerate(range(0, count, BATCH)):
        images = drawn(pipe, asked[start : start + BATCH], STEPS, (1.0, 2.0)[number % 2], generator)
        parts.append((images * 255).round().to(torch.uint8))
    _write(path, torch.cat(parts), asked)


def drawn(
    pipe: StableDiffusionPipeline,
    asked: list[str],
    steps: int,
    guidance: float,
    generator: torch.Generator,
    output_type: str = "pt",
) -> Tensor:
    """The pipeline's own pictures of B prompts: float [B, 3, 64, 64] in 0..1, or ``latent`` [B, 16, 8, 8]."""
    made = pipe(
        asked,
        height=64,
        width=64,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generator,
        output_type=output_type,
    )
    images: Tensor = made.images
    return images


def search(sd: Path, scorers: Sequence[Path], seed: int, path: Path, count: int = SEARCHED) -> None:
    """Write every picture that searches with a panel of ``scorers`` come across to ``path``.

    Args:
        sd: the diffusion model's folder.
        count: how many prompts are searched.
    """
    panel = [{"name": folder.name, "model": str(folder)} for folder in scorers]
    sections = {
        "seed": SEED + seed,
        "generators": {"model": str(sd), "steps": STEPS, "guidance_scale": 1.0, "batch_size": BATCH},
        "optimizer": {"method": "noise_diffusion", "rounds": ROUNDS},
    }
    loaded = load_models(ns.RunConfig(scorers=panel, **sections), "cpu")
    observer = Observer([member.scorer for group in loaded.groups for member in group.members])
    with ns.load(ns.RunConfig(scorers={"model": str(scorers[0])}, **sections), scorer=observer) as searcher:
        searcher.search(training_prompts(seed + 1, count), progress=False)
    _write(path, torch.cat(observer.images), observer.prompts)


class Observer:
    """A scorer that gives the mean of log s of other scorers, and remembers every picture that it is shown."""

    id = "observer"
    revision = "1"

    def __init__(self, scorers: Sequence[ImageScorer]) -> None:
        self._scorers = scorers
        self.images: list[Tensor] = []
        self.prompts: list[str] = []

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """See ``scorers.base.ImageScorer``."""
        self.images.append((images.detach() * 255).round().to(torch.uint8))
        self.prompts += prompts
        return torch.stack([scorer.log_scores(prompts, images) for scorer in self._scorers]).mean(0)


def training_prompts(seed: int, count: int) -> list[str]:
    """Prompts of both grammars in turn, without those of any evaluation.

    Evaluations use 30 of the 36 prompts of an animal that wears something. In place of such a prompt comes one that
    names the colour of what is worn, which no prompt of the grammars does: "a lion with a red crown".
    """
    excluded = evaluation_prompts()
    rng = random.Random(f"worn/{seed}")
    streams = itertools.cycle([prompts("complex", SEED + seed), prompts("simple", SEED + seed)])
    found: list[str] = []
    for stream in streams:
        scene = next(stream)
        if str(scene) in excluded and scene.join == "with" and scene.second is not None:
            scene = replace(scene, second=Phrase(scene.second.noun, rng.choice(COLOURS)))
        prompt = str(scene)
        if prompt not in excluded:
            found.append(prompt)
        if len(found) == count:
            return found
    raise AssertionError("a cycle does not end")


def evaluation_prompts() -> set[str]:
    """The prompts on which the models are judged: of the configs in ``configs/``, and of the labelled images."""
    found: set[str] = {seen.prompt for collection in REPORTED for seen in read_seen(collection)}
    for grammar in GRAMMARS:
        found |= {str(prompt) for prompt in itertools.islice(prompts(grammar, 0), EVALUATED)}
    return found


def _write(path: Path, images: Tensor, asked: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"images": images, "prompts": asked}, path)


@dataclass(frozen=True)
class Pool:
    """Generated pictures uint8 [N, 3, 64, 64], what the detector found in each, and their prompts."""

    images: Tensor
    found: list[list[Detection]]
    prompts: list[ScenePrompt]

    @classmethod
    def read(cls, paths: Sequence[Path], detector: Judge) -> Pool:
        """The pictures of several files, without those that the detector is in doubt about."""
        stored = [torch.load(path, weights_only=True) for path in paths]
        images = torch.cat([part["images"] for part in stored])
        asked = [text for part in stored for text in part["prompts"]]
        found: list[list[Detection]] = []
        for part in batches(images, 100):
            found += detector.detect(part.float() / 255, DOUBTFUL)
        sure: list[int] = []
        for number, detections in enumerate(found):
            if all(detection.confidence >= SURE for detection in detections):
                sure.append(number)
        scenes = [parse_own(asked[number]) for number in sure]
        return cls(images[sure], [found[number] for number in sure], scenes)

    def draw(self, rng: random.Random, words: Words, count: int, questions: int) -> tuple[Tensor, list[list[Segment]]]:
        """``count`` random pictures as float in 0..1, each with at most ``questions`` questions."""
        chosen = [rng.randrange(len(self.images)) for _ in range(count)]
        rows: list[list[Segment]] = []
        for number in chosen:
            rows.append(labelled(self.found[number], self.prompts[number], rng, words, questions))
        return self.images[chosen].float() / 255, rows


def labelled(
    found: Sequence[Detection], prompt: ScenePrompt, rng: random.Random, words: Words, count: int
) -> list[Segment]:
    """Questions about a generated picture: its prompt, prompts near to it, and the scene that was detected."""
    asked = [prompt, *near(prompt, rng)]
    rows: list[Segment] = []
    for one in asked:
        rows.append(about(one, words, words.yes if truth(found, one) else words.no))
    scene = as_scene(found)
    if scene is not None and len(rows) < count:
        rows += segments(scene, rng, words, count - len(rows))
    return rows


def near(prompt: ScenePrompt, rng: random.Random) -> list[ScenePrompt]:
    """Each object alone, the objects exchanged, and the same said the other way round."""
    if prompt.second is None:
        return []
    first, second, join = prompt.first, prompt.second, prompt.join
    found = [ScenePrompt(first), ScenePrompt(second)]
    if join in OPPOSITE or join == "on":
        found.append(ScenePrompt(second, join, first))
    if join in OPPOSITE:
        found.append(ScenePrompt(second, rng.choice(OPPOSITE[join]), first))
    return found


def as_scene(found: Sequence[Detection]) -> Scene | None:
    """The scene that detections amount to; ``None`` unless they are one or two different objects."""
    if not 1 <= len(found) <= 2:
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
