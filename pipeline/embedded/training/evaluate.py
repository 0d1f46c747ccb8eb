"""How good the built-in models are, on fresh seeds (``noisesmith embedded evaluate``)."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from noisesmith.pipeline.embedded.grammar import ScenePrompt, prompts
from noisesmith.pipeline.embedded.judge import Judge
from noisesmith.pipeline.embedded.scenes import NEGATIVES, Question, Scene, matches, possible, question, sample, truth
from noisesmith.pipeline.embedded.training.data import pictures
from noisesmith.pipeline.embedded.training.vlm import normalised, pack, packed_logits, words

WEIGHTS = Path(__file__).with_name("weights")
GUIDANCE, STEPS = 2.0, 20


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
    w = words()
    out: list[list[float]] = []
    for start in range(0, len(images), 32):
        part = images[start : start + 32]
        hidden = vlm.model.vision_tower(normalised(part), output_hidden_states=True).hidden_states[-1]
        tokens = vlm.model.multi_modal_projector(hidden[:, 1:])
        rows = []
        for row in asked[start : start + 32]:
            ids = [[w.vocabulary.get(word, 3) for word in str(p).split()] + w.closing for p in row]
            rows.append([(i, [-100] * (len(i) - 1) + [w.yes]) for i in ids])
        packed = pack(rows)
        chance = packed_logits(vlm, tokens, w, packed).softmax(-1)[..., w.yes]
        out += [chance[b][packed.target[b] == w.yes].tolist() for b in range(len(part))]
    return out


def sheet(rng: random.Random, count: int) -> list[tuple[Scene, list[Question]]]:
    """Fresh scenes, each with a true question and one of every negative it allows."""
    out = []
    for _ in range(count):
        scene = sample(rng)
        asked = [question(scene, rng, True)]
        asked += [question(scene, rng, False, kind) for kind in NEGATIVES if possible(scene, kind)]
        out.append((scene, asked))
    return out


def balanced(right: Iterable[tuple[bool, bool]]) -> float:
    """Mean of the accuracies on true and on false questions, from (answer, right) pairs."""
    sums: dict[bool, list[bool]] = {True: [], False: []}
    for answer, good in right:
        sums[answer].append(good)
    return sum(sum(v) / len(v) for v in sums.values()) / 2


def on_renders(vlm: LlavaForConditionalGeneration, judge: Judge, seed: int, count: int) -> dict[str, float]:
    """Accuracies of scorer and judge on rendered scenes with known answers."""
    scenes = sheet(random.Random(f"evaluate/{seed}"), count)
    images = pictures([s for s, _ in scenes])
    found = [d for part in images.split(64) for d in judge.detect(part)]
    chances = answers(vlm, images, [[q.prompt for q in asked] for _, asked in scenes])
    kinds: dict[str, list[bool]] = defaultdict(list)
    vlm_right, judge_right = [], []
    exact = []
    for (scene, asked), detections, row in zip(scenes, found, chances, strict=True):
        exact.append(
            sorted((d.noun, d.colour or "") for d in detections)
            == sorted((i.noun, i.colour or "") for i in scene.items)
        )
        for q, p in zip(asked, row, strict=True):
            good = (p > 0.5) == q.answer
            vlm_right.append((q.answer, good))
            kinds[f"vlm {'yes' if q.answer else 'no'}: {q.kind}"].append(good)
            judge_right.append((q.answer, truth(detections, q.prompt) == q.answer))
    figures = {
        "vlm balanced accuracy": balanced(vlm_right),
        "judge balanced accuracy": balanced(judge_right),
        "judge finds exactly the scene's objects": sum(exact) / len(exact),
    }
    return figures | {kind: sum(v) / len(v) for kind, v in sorted(kinds.items())}


def paint(pipe: StableDiffusionPipeline, asked: Sequence[ScenePrompt], seed: int) -> Tensor:
    """First images: float [B, 3, 64, 64] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(asked), 32):
        texts = [str(p) for p in asked[start : start + 32]]
        parts.append(
            pipe(
                texts, height=64, width=64, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator,
                output_type="pt",
            ).images
        )  # fmt: skip
    return torch.cat(parts).float()


def on_samples(
    pipe: StableDiffusionPipeline, vlm: LlavaForConditionalGeneration, judge: Judge, seed: int, count: int
) -> dict[str, float]:
    """Faithfulness of first images by judge and scorer, and how often the two agree."""
    figures = {}
    agreed: list[bool] = []
    named: list[bool] = []
    for grammar in ("simple", "complex"):
        asked = list(itertools.islice(prompts(grammar, seed + 100_000), count))
        images = paint(pipe, asked, seed)
        found = judge.detect(images)
        chances = [row[0] for row in answers(vlm, images, [[p] for p in asked])]
        verdicts = [truth(d, p) for d, p in zip(found, asked, strict=True)]
        named += [any(matches(ph, o) for ph in p.phrases for o in d) for d, p in zip(found, asked, strict=True)]
        agree = [(c > 0.5) == v for c, v in zip(chances, verdicts, strict=True)]
        agreed += agree
        figures[f"{grammar}: judged faithful"] = sum(verdicts) / count
        figures[f"{grammar}: mean P(Yes)"] = sum(chances) / count
        figures[f"{grammar}: vlm and judge agree"] = sum(agree) / count
    figures["a named object found"] = sum(named) / len(named)
    figures["vlm and judge agree"] = sum(agreed) / len(agreed)
    return figures


def evaluate(folder: Path = WEIGHTS, seed: int = 1, scenes: int = 2000, samples: int = 128) -> dict[str, float]:
    """All figures of the model card, each in 0..1. ``samples`` images a grammar."""
    pipe, vlm, judge = load(folder)
    return on_renders(vlm, judge, seed, scenes) | on_samples(pipe, vlm, judge, seed, samples)


def table(figures: dict[str, float]) -> str:
    """The figures as a Markdown table."""
    rows = [f"| {name} | {value:.3f} |" for name, value in figures.items()]
    return "\n".join(["| measure | value |", "| --- | --- |", *rows])
