"""Stages ``vlm-2`` to ``qwen-3``: a scorer trained further on generated pictures (``pool.py``).

Half of each batch are generated pictures, with the detector's answers. The other half are renders, so that nothing is
forgotten.
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
from noisesmith.pipeline.embedded.training.data import wear
from noisesmith.pipeline.embedded.training.loop import Log, StageSettings, fit
from noisesmith.pipeline.embedded.training.packing import Segment, Words, pack, packed_logits, words
from noisesmith.pipeline.embedded.training.pool import Pool
from noisesmith.pipeline.embedded.training.scenes import sample
from noisesmith.pipeline.embedded.training.student import Student, dense_loss
from noisesmith.pipeline.embedded.training.vlm import QUESTIONS, SPOILED, ask_spoiled


def settings_of(scorer: str, turn: int) -> StageSettings:
    """The settings of one round: ``scorer`` is ``vlm`` or ``qwen``, ``turn`` 2 (random noise) or 3 (searches too)."""
    return StageSettings(f"{scorer}-{turn}", steps=1200, batch=24, lr=4e-4, warmup=50, ema=0.99)


def train(
    seed: int,
    checkpoints: Path,
    vae: AutoencoderKL,
    pool: Pool | None,
    begin: PreTrainedModel,
    settings: StageSettings,
    log: Log = print,
) -> PreTrainedModel:
    """Train on from ``begin`` (or resume).

    Args:
        pool: may be missing where the stage has ended already.
    """
    torch.manual_seed(seed)
    kind = "qwen" if settings.stage.startswith("qwen") else "llava"
    student = Student(kind)
    student.vlm.load_state_dict(begin.state_dict())
    known_words = words(kind)

    def loss_fn(_step: int, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        assert pool is not None
        half = settings.batch // 2
        painted, rows = pool.draw(rng, known_words, half, QUESTIONS)
        scenes = [sample(rng) for _ in range(settings.batch - half)]
        images, left = spoil_some(scenes, rng, SPOILED, vae, keep=1)
        rendered = wear(images, rng, vae, 0.5)
        tokens = student.patches(torch.cat([wear(painted, rng, None), rendered]))
        dense, _ = dense_loss(student, tokens[half:], left, known_words)
        for before, after in zip(scenes, left, strict=True):
            rows.append([asked.segment for asked in ask_spoiled(before, after, rng, known_words)])
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
        "on_pictures": right[:half][answer[:half]].mean().item(),
        "on_renders": right[half:][answer[half:]].mean().item(),
    }
    return loss, metrics
