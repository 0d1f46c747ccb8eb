"""A scorer's side: a batch's forward and backward pass through the decoder and the scorer, both without weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from noisesmith.pipeline.cost.measure import Cost, measure, without_numbers
from noisesmith.pipeline.generators import Decoder, LatentSpec
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.scorers import FoundScorer
from noisesmith.pipeline.scorers.loaded import Inputs, LoadedScorer

TEXT_TOKENS = 64  # of a question, the prompt in it; an image is hundreds


def score_cost(
    decoder: Decoder, found: FoundScorer, model: Model | None, spec: LatentSpec, batch: int, *, gradient: bool
) -> Cost:
    """The cost of a batch's scores, and of their gradients where asked for.

    Args:
        decoder: without weights.
        model: the scorer's model without weights; ``None`` where a server holds it: decoding is all there is then.

    Raises:
        OSError: the JSON files of the scorer's image processor are not here.
        NotImplementedError, RuntimeError: a model cannot run without numbers.
    """
    latents = torch.empty(batch, *spec.shape, dtype=decoder.vae.dtype, device="meta")
    if model is None or not issubclass(found.family, LoadedScorer):
        return measure(partial(_decode, decoder, latents))
    vision = found.family.blank_vision(found, spec.height, spec.width, batch)
    text = without_numbers(partial(found.family.blank_text, model, vision, batch, TEXT_TOKENS))
    return measure(partial(_score_batch, decoder, found.family, model, latents, text, vision, gradient=gradient))


@torch.no_grad()
def _decode(decoder: Decoder, latents: Tensor) -> None:
    decoder(latents)


def _score_batch(
    decoder: Decoder,
    family: type[LoadedScorer],
    model: Model,
    latents: Tensor,
    text: Inputs,
    vision: Inputs,
    *,
    gradient: bool,
) -> None:
    """Decode, score and differentiate a batch as a scorer worker does, up to the preprocessing of the image.

    The preprocessing keeps next to nothing for its gradient, and its work is slight: a mean stands for it.
    """
    with torch.set_grad_enabled(gradient):
        leaf = latents.detach().clone().requires_grad_(gradient)
        blank = vision["pixel_values"]
        pixels = decoder(leaf).mean().to(blank.dtype) + blank
        score = family.score_blank(model, text, vision | {"pixel_values": pixels}).sum()
        if gradient:
            torch.autograd.grad(score, leaf)
