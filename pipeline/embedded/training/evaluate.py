"""How good the built-in models are, measured on fresh seeds (``noisesmith embedded evaluate``)."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import (
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2VLForConditionalGeneration,
)

from noisesmith.pipeline.embedded import WEIGHTS
from noisesmith.pipeline.embedded.geometry import Located, matches, truth
from noisesmith.pipeline.embedded.grammar import (
    COLOURS,
    GRAMMARS,
    NOUNS,
    THINGS,
    Phrase,
    ScenePrompt,
    parse_own,
    prompts,
)
from noisesmith.pipeline.embedded.judge import Detection, Judge
from noisesmith.pipeline.embedded.training.data import batches, pictures
from noisesmith.pipeline.embedded.training.eye import REPORTED, read_images, read_labels
from noisesmith.pipeline.embedded.training.packing import Segment, about, pack, packed_logits, words
from noisesmith.pipeline.embedded.training.pool import drawn
from noisesmith.pipeline.embedded.training.questions import NEGATIVES, Question, possible, question
from noisesmith.pipeline.embedded.training.scenes import Scene, sample
from noisesmith.pipeline.embedded.training.student import patch_tokens

SCORERS = {"vlm": LlavaForConditionalGeneration, "qwen": Qwen2VLForConditionalGeneration}
JUDGES = ("judge", "detector")
PANEL = "panel"  # the geometric mean of both scorers
STEPS = 20
GUIDANCE = 3.0  # a usual one; 1 is none
ALONE = 22  # images of every noun alone, so that every colour comes twice
BATCH = 32


@dataclass(frozen=True)
class Models:
    """The models of a weights folder; version 1 has one scorer and one detector. The first detector is the judge."""

    pipe: StableDiffusionPipeline
    scorers: Mapping[str, PreTrainedModel]
    judges: Mapping[str, Judge]


def load(folder: Path) -> Models:
    """The models of a weights folder, by their own ``from_pretrained``, in float32."""
    pipe = StableDiffusionPipeline.from_pretrained(folder / "sd")
    pipe.set_progress_bar_config(disable=True)
    scorers: dict[str, PreTrainedModel] = {}
    for name, loader in SCORERS.items():
        if (folder / name).is_dir():
            scorers[name] = loader.from_pretrained(folder / name).eval()
    judges: dict[str, Judge] = {}
    for name in JUDGES:
        if (folder / name).is_dir():
            judges[name] = Judge.from_pretrained(folder / name).eval()
    return Models(pipe, scorers, judges)


@torch.no_grad()
def answers(vlm: PreTrainedModel, images: Tensor, asked: Sequence[Sequence[ScenePrompt]]) -> list[list[float]]:
    """P(Yes) among all words, for each picture's prompts.

    Args:
        images: float [B, 3, 64, 64] in 0..1.
        asked: B lists of prompts.
    """
    known_words = words("qwen" if isinstance(vlm, Qwen2VLForConditionalGeneration) else "llava")
    found: list[list[float]] = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        tokens = patch_tokens(vlm, part)
        rows: list[list[Segment]] = []
        for prompts_of_one in asked[start : start + BATCH]:
            # "Yes" is the target of the last token: the place to read the answer.
            rows.append([about(prompt, known_words, known_words.yes) for prompt in prompts_of_one])
        packed = pack(rows)
        chances = packed_logits(vlm, tokens, known_words, packed).softmax(-1)[..., known_words.yes]
        for chance, target in zip(chances, packed.target, strict=True):
            found.append(chance[target == known_words.yes].tolist())
    return found


def sheet(rng: random.Random, count: int) -> list[tuple[Scene, list[Question]]]:
    """Fresh scenes, each with a true question and one of every negative it allows."""
    scenes: list[tuple[Scene, list[Question]]] = []
    for _ in range(count):
        scene = sample(rng)
        asked = [question(scene, rng, True)]
        for kind in NEGATIVES:
            if possible(scene, kind):
                asked.append(question(scene, rng, False, kind))
        scenes.append((scene, asked))
    return scenes


def balanced(right: Sequence[tuple[bool, bool]]) -> float:
    """Mean of the accuracies on true and on false questions, from (answer, right) pairs."""
    on_true = [good for answer, good in right if answer]
    on_false = [good for answer, good in right if not answer]
    return (fmean(on_true) + fmean(on_false)) / 2


def on_renders(models: Models, seed: int, count: int) -> dict[str, float]:
    """Accuracies of scorers and detectors on rendered scenes with known answers."""
    scenes = sheet(random.Random(f"evaluate/{seed}"), count)
    images = pictures([scene for scene, _ in scenes])
    figures: dict[str, float] = {}
    for name, judge in models.judges.items():
        figures |= _detections_on_renders(name, detect(judge, images), scenes)
    prompts_asked: list[list[ScenePrompt]] = []
    for _, asked in scenes:
        prompts_asked.append([one.prompt for one in asked])
    for name, vlm in models.scorers.items():
        figures |= _answers_on_renders(name, answers(vlm, images, prompts_asked), scenes)
    return figures


def detect(judge: Judge, images: Tensor) -> list[list[Detection]]:
    """What a detector finds in each of float [B, 3, 64, 64] in 0..1."""
    found: list[list[Detection]] = []
    for part in batches(images, 64):
        found += judge.detect(part)
    return found


def _detections_on_renders(
    name: str, found: Sequence[Sequence[Detection]], scenes: Sequence[tuple[Scene, list[Question]]]
) -> dict[str, float]:
    right: list[tuple[bool, bool]] = []
    exact: list[bool] = []
    for (scene, asked), detections in zip(scenes, found, strict=True):
        exact.append(_names(detections) == _names(scene.items))
        for one in asked:
            right.append((one.answer, truth(detections, one.prompt) == one.answer))
    return {
        f"{name} balanced accuracy": balanced(right),
        f"{name} finds exactly the scene's objects": fmean(exact),
    }


def _answers_on_renders(
    name: str, chances: Sequence[Sequence[float]], scenes: Sequence[tuple[Scene, list[Question]]]
) -> dict[str, float]:
    by_kind: dict[str, list[bool]] = defaultdict(list)
    right: list[tuple[bool, bool]] = []
    for (_, asked), row in zip(scenes, chances, strict=True):
        for one, chance in zip(asked, row, strict=True):
            good = (chance > 0.5) == one.answer
            right.append((one.answer, good))
            by_kind[f"{name} {'yes' if one.answer else 'no'}: {one.kind}"].append(good)
    figures = {f"{name} balanced accuracy": balanced(right)}
    for kind, good_answers in sorted(by_kind.items()):
        figures[kind] = fmean(good_answers)
    return figures


def _names(objects: Sequence[Located]) -> list[tuple[str, str]]:
    """Nouns and colours, in an order that does not depend on that of the objects."""
    return sorted((one.noun, one.colour or "") for one in objects)


def paint(pipe: StableDiffusionPipeline, asked: Sequence[ScenePrompt], seed: int, guidance: float = 1.0) -> Tensor:
    """First images of prompts: float [B, 3, 64, 64] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    for start in range(0, len(asked), BATCH):
        part = [str(prompt) for prompt in asked[start : start + BATCH]]
        parts.append(drawn(pipe, part, STEPS, guidance, generator))
    return torch.cat(parts).float()


def opinions(models: Models, images: Tensor, asked: Sequence[ScenePrompt]) -> dict[str, list[float]]:
    """What each detector (0 or 1), each scorer (P(Yes)) and the panel say of images and their prompts."""
    found: dict[str, list[float]] = {}
    for name, judge in models.judges.items():
        detections = detect(judge, images)
        found[name] = [float(truth(one, prompt)) for one, prompt in zip(detections, asked, strict=True)]
    chances: list[list[float]] = []
    for name, vlm in models.scorers.items():
        found[name] = [row[0] for row in answers(vlm, images, [[prompt] for prompt in asked])]
        chances.append(found[name])
    if len(chances) > 1:
        found[PANEL] = [math.prod(of_image) ** (1 / len(chances)) for of_image in zip(*chances, strict=True)]
    return found


def on_samples(models: Models, seed: int, count: int) -> dict[str, float]:
    """Faithfulness of first images without guidance, by every model, and how often it agrees with the judge."""
    figures: dict[str, float] = {}
    for grammar in GRAMMARS:
        asked = list(itertools.islice(prompts(grammar, seed + 100_000), count))
        found = opinions(models, paint(models.pipe, asked, seed), asked)
        verdicts = found["judge"]
        for name, says in found.items():
            kind = "judged faithful by" if name in models.judges else "mean P(Yes) of"
            figures[f"{grammar}: {kind} {name}"] = fmean(says)
            if name != "judge":
                agree = [(one > 0.5) == (verdict > 0.5) for one, verdict in zip(says, verdicts, strict=True)]
                figures[f"{grammar}: {name} agrees with the judge"] = fmean(agree)
    return figures


def alone(models: Models, seed: int, guidance: float, per_noun: int = ALONE) -> dict[str, float]:
    """Share of images of one object that the judge recognises: all, by noun and, of things, by colour."""
    asked: list[ScenePrompt] = []
    for noun in NOUNS:
        for number in range(per_noun):
            asked.append(ScenePrompt(Phrase(noun, COLOURS[number % len(COLOURS)] if noun in THINGS else None)))
    detections = detect(models.judges["judge"], paint(models.pipe, asked, seed, guidance))
    by_word: dict[str, list[bool]] = defaultdict(list)
    for found, prompt in zip(detections, asked, strict=True):
        phrase = prompt.first
        right = any(matches(phrase, one) for one in found)
        by_word["all"].append(right)
        by_word[phrase.noun].append(right)
        if phrase.colour is not None:
            by_word[phrase.colour].append(right)
    return {f"alone, guidance {guidance:g}: {word}": fmean(by_word[word]) for word in ("all", *NOUNS, *COLOURS)}


def against_eye(models: Models, collection: str) -> dict[str, float]:
    """What the models say (P(Yes) above ½) of the held-out images of a collection that was labelled by eye."""
    every, pixels = read_images(collection)
    shows = read_labels(collection)
    chosen = [number for number, seen in enumerate(every) if seen.held_out]
    labels = [shows[number] for number in chosen]
    asked = [parse_own(every[number].prompt) for number in chosen]
    figures = {f"by eye, {collection}: images that show their prompts": fmean(labels)}
    for name, says in opinions(models, pixels[chosen], asked).items():
        for measure, value in _agreement([one > 0.5 for one in says], labels).items():
            figures[f"by eye, {collection}: {name} {measure}"] = value
    return figures


def _agreement(verdicts: Sequence[bool], labels: Sequence[bool]) -> dict[str, float]:
    """Share of equal verdicts, and precision and recall of "shows its prompt"; 0 where nothing was accepted."""
    both = sum(verdict and label for verdict, label in zip(verdicts, labels, strict=True))
    equal = [verdict == label for verdict, label in zip(verdicts, labels, strict=True)]
    return {
        "agrees": fmean(equal),
        "precision": both / max(1, sum(verdicts)),
        "recall": both / max(1, sum(labels)),
    }


def evaluate(folder: Path = WEIGHTS, seed: int = 1, scenes: int = 2000, samples: int = 128) -> dict[str, float]:
    """All figures of the model card, each in 0..1.

    Args:
        scenes: rendered scenes.
        samples: generated images per grammar.
    """
    models = load(folder)
    figures = on_renders(models, seed, scenes) | on_samples(models, seed, samples)
    for guidance in (1.0, GUIDANCE):
        figures |= alone(models, seed, guidance)
    for collection in REPORTED:
        figures |= against_eye(models, collection)
    return figures
