"""How good the built-in models are, measured on fresh seeds (``noisesmith embedded evaluate``)."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from noisesmith.pipeline.embedded import WEIGHTS
from noisesmith.pipeline.embedded.geometry import Located, matches, truth
from noisesmith.pipeline.embedded.grammar import GRAMMARS, ScenePrompt, parse, prompts
from noisesmith.pipeline.embedded.judge import Detection, Judge
from noisesmith.pipeline.embedded.training.data import batches, pictures
from noisesmith.pipeline.embedded.training.eye import read_images, read_labels
from noisesmith.pipeline.embedded.training.packing import NO_TARGET, Segment, Words, pack, packed_logits, words
from noisesmith.pipeline.embedded.training.questions import NEGATIVES, Question, possible, question
from noisesmith.pipeline.embedded.training.scenes import Scene, sample
from noisesmith.pipeline.embedded.training.student import normalised

GUIDANCE = 2.0
STEPS = 20
UNKNOWN = 3  # the chat tokenizer's <unk>
BATCH = 32


def load(folder: Path) -> tuple[StableDiffusionPipeline, LlavaForConditionalGeneration, Judge]:
    """The three models of a weights folder, by their own ``from_pretrained``, in float32."""
    pipe = StableDiffusionPipeline.from_pretrained(folder / "sd")
    pipe.set_progress_bar_config(disable=True)
    vlm = LlavaForConditionalGeneration.from_pretrained(folder / "vlm").eval()
    return pipe, vlm, Judge.from_pretrained(folder / "judge").eval()


@torch.no_grad()
def answers(
    vlm: LlavaForConditionalGeneration, images: Tensor, asked: Sequence[Sequence[ScenePrompt]]
) -> list[list[float]]:
    """P(Yes) among all words, for each picture's prompts.

    Args:
        images: float [B, 3, 64, 64] in 0..1.
        asked: B lists of prompts.
    """
    known_words = words()
    found: list[list[float]] = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        hidden = vlm.model.vision_tower(normalised(part), output_hidden_states=True).hidden_states[-1]
        tokens = vlm.model.multi_modal_projector(hidden[:, 1:])
        rows: list[list[Segment]] = []
        for prompts_of_one in asked[start : start + BATCH]:
            rows.append([_segment(prompt, known_words) for prompt in prompts_of_one])
        packed = pack(rows)
        chances = packed_logits(vlm, tokens, known_words, packed).softmax(-1)[..., known_words.yes]
        for chance, target in zip(chances, packed.target, strict=True):
            found.append(chance[target == known_words.yes].tolist())
    return found


def _segment(prompt: ScenePrompt, words: Words) -> Segment:
    """A prompt's question, with "Yes" as the target after its last token: the place to read the answer."""
    ids = [words.vocabulary.get(word, UNKNOWN) for word in str(prompt).split()] + words.closing
    return ids, [NO_TARGET] * (len(ids) - 1) + [words.yes]


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


def on_renders(vlm: LlavaForConditionalGeneration, judge: Judge, seed: int, count: int) -> dict[str, float]:
    """Accuracies of scorer and judge on rendered scenes with known answers."""
    scenes = sheet(random.Random(f"evaluate/{seed}"), count)
    images = pictures([scene for scene, _ in scenes])
    found: list[list[Detection]] = []
    for part in batches(images, 64):
        found += judge.detect(part)
    prompts_asked: list[list[ScenePrompt]] = []
    for _, asked in scenes:
        prompts_asked.append([one.prompt for one in asked])
    chances = answers(vlm, images, prompts_asked)
    by_kind: dict[str, list[bool]] = defaultdict(list)
    vlm_right: list[tuple[bool, bool]] = []
    judge_right: list[tuple[bool, bool]] = []
    exact: list[bool] = []
    for (scene, asked), detections, row in zip(scenes, found, chances, strict=True):
        exact.append(_names(detections) == _names(scene.items))
        for one, chance in zip(asked, row, strict=True):
            good = (chance > 0.5) == one.answer
            vlm_right.append((one.answer, good))
            by_kind[f"vlm {'yes' if one.answer else 'no'}: {one.kind}"].append(good)
            judge_right.append((one.answer, truth(detections, one.prompt) == one.answer))
    figures = {
        "vlm balanced accuracy": balanced(vlm_right),
        "judge balanced accuracy": balanced(judge_right),
        "judge finds exactly the scene's objects": fmean(exact),
    }
    for kind, right in sorted(by_kind.items()):
        figures[kind] = fmean(right)
    return figures


def _names(objects: Sequence[Located]) -> list[tuple[str, str]]:
    """Nouns and colours, in an order that does not depend on that of the objects."""
    return sorted((one.noun, one.colour or "") for one in objects)


def paint(pipe: StableDiffusionPipeline, asked: Sequence[ScenePrompt], seed: int) -> Tensor:
    """First images of prompts: float [B, 3, 64, 64] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    for start in range(0, len(asked), BATCH):
        images = pipe(
            [str(prompt) for prompt in asked[start : start + BATCH]],
            height=64,
            width=64,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=generator,
            output_type="pt",
        ).images
        parts.append(images)
    return torch.cat(parts).float()


def on_samples(
    pipe: StableDiffusionPipeline, vlm: LlavaForConditionalGeneration, judge: Judge, seed: int, count: int
) -> dict[str, float]:
    """Faithfulness of first images by judge and scorer, and how often the two agree."""
    figures: dict[str, float] = {}
    all_agree: list[bool] = []
    named: list[bool] = []
    for grammar in GRAMMARS:
        asked = list(itertools.islice(prompts(grammar, seed + 100_000), count))
        images = paint(pipe, asked, seed)
        chances = [row[0] for row in answers(vlm, images, [[prompt] for prompt in asked])]
        verdicts: list[bool] = []
        agree: list[bool] = []
        for prompt, detections, chance in zip(asked, judge.detect(images), chances, strict=True):
            verdict = truth(detections, prompt)
            verdicts.append(verdict)
            agree.append((chance > 0.5) == verdict)
            named.append(_finds_one(detections, prompt))
        figures[f"{grammar}: judged faithful"] = fmean(verdicts)
        figures[f"{grammar}: mean P(Yes)"] = fmean(chances)
        figures[f"{grammar}: vlm and judge agree"] = fmean(agree)
        all_agree += agree
    figures["a named object found"] = fmean(named)
    figures["vlm and judge agree"] = fmean(all_agree)
    return figures


def _finds_one(detections: Sequence[Detection], prompt: ScenePrompt) -> bool:
    pairs = itertools.product(prompt.phrases, detections)
    return any(matches(phrase, detection) for phrase, detection in pairs)


def against_eye(vlm: LlavaForConditionalGeneration, judge: Judge) -> dict[str, float]:
    """What judge and scorer (P(Yes) above ½) say of the held-out images that were labelled by eye."""
    every, pixels = read_images()
    chosen = [number for number, seen in enumerate(every) if seen.held_out]
    shows = read_labels()
    labels = [shows[number] for number in chosen]
    asked: list[ScenePrompt] = []
    for number in chosen:
        scene = parse(every[number].prompt)
        assert scene is not None, "the images were made from the grammars' prompts"
        asked.append(scene)
    images = pixels[chosen]
    found = judge.detect(images)
    judged = [truth(detections, prompt) for detections, prompt in zip(found, asked, strict=True)]
    scored = [row[0] > 0.5 for row in answers(vlm, images, [[prompt] for prompt in asked])]
    figures = {"by eye: images that show their prompts": fmean(labels)}
    for name, verdicts in (("judge", judged), ("vlm", scored)):
        for measure, value in _agreement(verdicts, labels).items():
            figures[f"by eye: {name} {measure}"] = value
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
    pipe, vlm, judge = load(folder)
    figures = on_renders(vlm, judge, seed, scenes) | on_samples(pipe, vlm, judge, seed, samples)
    return figures | against_eye(vlm, judge)


def table(figures: dict[str, float]) -> str:
    """The figures as a Markdown table."""
    rows = [f"| {name} | {value:.3f} |" for name, value in figures.items()]
    return "\n".join(["| measure | value |", "| --- | --- |", *rows])
