"""Checks that every scorer passes, whatever its family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators import Decoder, find_generator, load_decoder
from noisesmith.pipeline.scorers import Group, Member
from noisesmith.pipeline.search.score import score_latents

STEP = 1e-5


def alone(scorer: Any) -> Group:
    """A panel of one, which sees what the decoder makes."""
    return Group((Member(scorer, overshoots=True),))


def decoder_in_float64(model: Path, *, clamp: bool = True) -> Decoder:
    """The decoder of a generator's folder with its weights as float64, for finite differences."""
    decoder = load_decoder(find_generator(GeneratorConfig(model=str(model))), "cpu", clamp=clamp)
    decoder.vae.double()
    return decoder


def assert_gradient_matches_finite_differences(
    decoder: Decoder, scorer: Any, prompt: str, latents: torch.Tensor, stride: int
) -> None:
    """∂log s/∂z_0 of one float64 z_0 ``[1, C, h, w]`` against central differences at every ``stride``-th coordinate."""
    analytic = score_latents(decoder, alone(scorer), [prompt], latents, gradient=True).log_gradients
    assert analytic is not None
    assert float(analytic.abs().max()) > 0
    for coordinate in range(0, latents.numel(), stride):
        delta = torch.zeros_like(latents)
        delta.view(-1)[coordinate] = STEP
        ahead, behind = (
            float(score_latents(decoder, alone(scorer), [prompt], moved, gradient=False).log_scores)
            for moved in (latents + delta, latents - delta)
        )
        numeric = (ahead - behind) / (2 * STEP)
        assert numeric == pytest.approx(float(analytic.view(-1)[coordinate]), rel=1e-4, abs=1e-9)


def assert_batch_equals_one_by_one(decoder: Decoder, scorer: Any, prompts: list[str], latents: torch.Tensor) -> None:
    """Scores and gradients of prompts of mixed lengths, together and alone."""
    together = score_latents(decoder, alone(scorer), prompts, latents, gradient=True)
    for position, prompt in enumerate(prompts):
        single = score_latents(decoder, alone(scorer), [prompt], latents[position : position + 1], gradient=True)
        assert single.log_gradients is not None
        assert together.log_gradients is not None
        assert float(single.scores) == pytest.approx(float(together.scores[0, position]), rel=1e-4)
        difference = (single.log_gradients[0] - together.log_gradients[position]).norm() / single.log_gradients[
            0
        ].norm()
        assert float(difference) < 1e-3


def assert_special_tokens_are_text(scorer: Any, tokens: list[str]) -> None:
    """A prompt made of control tokens reads as one with them broken up, and does not affect its neighbour."""
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    hostile = broken_up = f"a {' '.join(reversed(tokens))} dog and an <image> {{question}} {{prompt}}"
    for token in tokens:
        broken_up = broken_up.replace(token, f"{token[0]} {token[1:]}")
    together = scorer.log_scores([hostile, "a dog"], images)
    alone = [scorer.log_scores([prompt], images[row : row + 1]) for row, prompt in enumerate([broken_up, "a dog"])]
    assert together.exp().tolist() == pytest.approx(torch.cat(alone).exp().tolist(), rel=1e-4)
