"""A scorer's side: a batch's forward and backward pass through the decoder and its scorers, all without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from noisesmith.pipeline.cost.measure import Cost, measure
from noisesmith.pipeline.generators import Decoder, LatentSpec
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.shapes import without_numbers
from noisesmith.pipeline.scorers import FoundScorer
from noisesmith.pipeline.scorers.loaded import Inputs, LoadedScorer

TEXT_TOKENS = 64  # of a question, the prompt in it; an image is hundreds


@dataclass(frozen=True)
class Weightless:
    """A scorer whose model has no weights.

    Attributes:
        model: ``None`` where a server holds it.
        gradient: whether its score is differentiated.
    """

    found: FoundScorer
    model: Model | None
    gradient: bool


@dataclass(frozen=True)
class _Asked:
    """A loaded scorer with the inputs of a batch."""

    family: type[LoadedScorer]
    model: Model
    text: Inputs
    vision: Inputs
    gradient: bool


def score_cost(decoder: Decoder, scorers: Sequence[Weightless], spec: LatentSpec, batch: int) -> Cost:
    """The cost of a batch's scores by all scorers of one worker, and of their gradients where asked for.

    Args:
        decoder: without weights. Decoding is all there is where servers hold all models.

    Raises:
        OSError: the JSON files of a scorer's image processor are not here.
        NotImplementedError, RuntimeError: a model cannot run without numbers.
    """
    latents = torch.empty(batch, *spec.decoded, dtype=decoder.vae.dtype, device="meta")
    asked = []
    for one in scorers:
        family = one.found.family
        if one.model is not None and issubclass(family, LoadedScorer):
            vision = family.blank_vision(one.found, spec.height, spec.width, batch)
            text = without_numbers(partial(family.blank_text, one.model, vision, batch, TEXT_TOKENS))
            asked.append(_Asked(family, one.model, text, vision, one.gradient))
    if not asked:
        return measure(partial(_decode, decoder, latents))
    return measure(partial(_score_batch, decoder, asked, latents))


@torch.no_grad()
def _decode(decoder: Decoder, latents: Tensor) -> None:
    decoder(latents)


def _score_batch(decoder: Decoder, scorers: Sequence[_Asked], latents: Tensor) -> None:
    """Decode, score and differentiate a batch as a scorer worker does, up to the preprocessing of the image.

    The preprocessing keeps next to nothing for its gradient, and its work is slight: a mean stands for it.
    """
    gradient = any(one.gradient for one in scorers)
    with torch.set_grad_enabled(gradient):
        leaf = latents.detach().clone().requires_grad_(gradient)
        seen = decoder(leaf.view_as(leaf)).mean()  # the counter of operations refuses a leaf as a module's input
        steering = []
        for one in scorers:
            with torch.set_grad_enabled(one.gradient):
                blank = one.vision["pixel_values"]
                pixels = seen.to(blank.dtype) + blank
                score = one.family.score_blank(one.model, one.text, one.vision | {"pixel_values": pixels}).sum()
            if one.gradient:
                steering.append(score)
        if steering:
            torch.autograd.grad(steering, leaf)
