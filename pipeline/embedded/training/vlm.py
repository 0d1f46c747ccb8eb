"""Stage ``vlm``, the vision-language model.

Yes/no answers alone leave it at chance for thousands of steps. What makes it learn:

- many questions per picture behind a shared image (``packing.py``);
- dense losses on the patches (``student.py``);
- verdicts at the first noun and the last word of each prompt, by one more head that is discarded after training;
- captioning: in true questions the words of the prompt themselves are predicted from the picture;
- a curriculum: first the vision tower alone, then one object, pairs, relations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import PreTrainedModel

from noisesmith.pipeline.embedded.training.damage import spoil_some
from noisesmith.pipeline.embedded.training.data import pictures, tiled, wear
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit
from noisesmith.pipeline.embedded.training.packing import Asked, Words, ask, pack, packed_hidden, words
from noisesmith.pipeline.embedded.training.scenes import LAYOUT_SHARES, LAYOUTS, Scene, sample
from noisesmith.pipeline.embedded.training.student import Student, dense_loss

SETTINGS = StageSettings("vlm", steps=2000, batch=24, lr=8e-4, warmup=100, ema=0.995)
QWEN_SETTINGS = StageSettings("qwen", steps=3200, batch=24, lr=1.2e-3, warmup=100, ema=0.995)
QUESTIONS = 8  # per picture
SPOILED = 0.3  # share of scenes of two objects with a spoiled one


def shares(progress: float) -> list[float]:
    """Layout weights of the curriculum at ``progress`` in 0..1 of training, in the order of ``LAYOUTS``."""
    single, pair, worn, on, above = (float(share) for share in LAYOUT_SHARES)
    open_pairs = min(1.0, max(0.0, (progress - 0.03) / 0.05))
    open_relations = min(1.0, max(0.0, (progress - 0.08) / 0.07))
    early = 60 * (1 - open_pairs)
    return [
        single + early,
        pair * open_pairs + 5,
        worn * open_relations + 2,
        on * open_relations,
        above * open_relations,
    ]


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL | None,
    begin: PreTrainedModel | None = None,
    settings: StageSettings = SETTINGS,
    log: Log = print,
    warm: float = 0.23,
) -> PreTrainedModel:
    """Train from scratch, or on from the weights of ``begin`` (or resume).

    From scratch the first ``warm`` of the steps train the vision tower alone, on more scenes, and layouts come in one
    after the other.

    Args:
        settings: the stage's name decides the architecture.
    """
    torch.manual_seed(seed)
    kind = "qwen" if settings.stage == "qwen" else "llava"
    student = Student(kind)
    known_words = words(kind)
    if begin is not None:
        student.vlm.load_state_dict(begin.state_dict())
        warm = 0.0

    def loss_fn(step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        progress = step / settings.steps
        if progress < warm:
            scenes = [tiled(rng) if rng.random() < 0.75 else sample(rng) for _ in range(2 * settings.batch)]
            tokens = student.patches(wear(pictures(scenes), rng, None))
            return dense_loss(student, tokens, scenes, known_words)
        weights = shares(1.0 if begin is not None else (progress - warm) / (1 - warm))
        scenes = [sample(rng, rng.choices(LAYOUTS, weights)[0]) for _ in range(settings.batch)]
        images, left = spoil_some(scenes, rng, SPOILED, vae, keep=1)
        tokens = student.patches(wear(images, rng, vae, 0.25))
        dense, metrics = dense_loss(student, tokens, left, known_words)
        asked = [ask_spoiled(before, after, rng, known_words) for before, after in zip(scenes, left, strict=True)]
        answered, more = _answer_loss(student, tokens, asked, known_words)
        return answered + 0.5 * dense, metrics | more

    module = fit(settings, student, loss_fn, seed, checkpoints, log)
    assert isinstance(module, Student)
    return module.vlm


def ask_spoiled(before: Scene, after: Scene, rng: random.Random, words: Words) -> list[Asked]:
    """Questions about a scene of which perhaps one object was spoiled."""
    return ask(after, rng, words, QUESTIONS, before if len(before.items) > len(after.items) else None)


def _answer_loss(
    student: Student, tokens: Tensor, rows: Sequence[Sequence[Asked]], words: Words
) -> tuple[Tensor, dict[str, float]]:
    """Losses of answers, verdicts and captions on questions about B pictures; ``tokens`` are [B, 64, width]."""
    packed = pack([[asked.segment for asked in row] for row in rows])
    verdicts = pack([[(asked.ids, asked.verdicts) for asked in row] for row in rows]).target
    hidden = packed_hidden(student.vlm, tokens, words, packed)
    logits = student.vlm.lm_head(hidden)
    judged = verdicts >= 0
    answer = (packed.target == words.yes) | (packed.target == words.no)
    spoken = (packed.target >= 0) & ~answer
    verdict_loss = F.cross_entropy(student.verdict(hidden[judged]), verdicts[judged])
    answer_loss = F.cross_entropy(logits[answer], packed.target[answer])
    caption_loss = F.cross_entropy(logits[spoken], packed.target[spoken])
    says_yes = logits[..., words.yes] > logits[..., words.no]
    right = says_yes == (packed.target == words.yes)
    metrics = {
        "answers": answer_loss.item(),
        "accuracy": right[answer].float().mean().item(),
        "captions": caption_loss.item(),
        "verdicts": verdict_loss.item(),
    }
    return 2 * answer_loss + 2 * verdict_loss + 0.5 * caption_loss, metrics
