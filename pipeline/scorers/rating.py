"""How a model rates an image, where a rating is the beginning of its answer: the expected one, with a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.scorers.answers import exact
from noisesmith.pipeline.scorers.instructions import UNIFIED_REWARD_ANSWER

if TYPE_CHECKING:
    from torch import Tensor

RATINGS = range(1, 6)


def spell_ratings(spell: Callable[[str], list[int]]) -> tuple[list[int], list[int]] | None:
    """The tokens before a rating, and the token of each rating; ``None`` where a rating is not one token.

    Args:
        spell: a tokenizer's ids of a text.
    """
    answers = [spell(f"{UNIFIED_REWARD_ANSWER}{rating}") for rating in RATINGS]
    before = answers[0][:-1]
    tokens = [answer[-1] for answer in answers]
    if any(answer[:-1] != before for answer in answers) or len(set(tokens)) < len(tokens):
        return None
    return before, tokens


def log_expected(logits: Tensor) -> Tensor:
    """log of (E − 1) / 4 ``[B]``, with E the expected rating by the logits ``[B, 5]`` of the ratings 1 to 5."""
    spoken = torch.log_softmax(exact(logits), dim=-1)
    shares = torch.tensor([(rating - RATINGS[0]) / (RATINGS[-1] - RATINGS[0]) for rating in RATINGS]).to(spoken)
    return torch.logsumexp(spoken[:, 1:] + shares[1:].log(), dim=-1)  # the lowest has no share
