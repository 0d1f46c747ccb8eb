"""The score of a z_0 and its gradient: decoder and image scorer as one differentiable function."""

from __future__ import annotations

import torch
from torch import Tensor

from noisesmith.pipeline.errors import UnusableImage
from noisesmith.pipeline.generators.decoder import Decoder
from noisesmith.pipeline.images import to_uint8
from noisesmith.pipeline.noise import check_finite
from noisesmith.pipeline.scorers.base import ImageScorer, Scores


def score_latents(
    decoder: Decoder, scorer: ImageScorer, prompts: list[str], latents: Tensor, *, gradient: bool
) -> Scores:
    """Score z_0 ``[B, C, h, w]`` against B prompts, with ∂s/∂z_0 where ``gradient`` is set.

    The gradient is taken of log s and multiplied by s, so that a small score does not underflow in half precision.
    Rows do not mix: the gradient of the sum is each row's own.

    Raises:
        FloatingPointError: a score or gradient is not finite; the message gives the positions in the batch.
        UnusableImage: an image is of one flat colour, whatever the scorer makes of it.
    """
    with torch.set_grad_enabled(gradient):
        leaf = latents.detach().clone().requires_grad_(gradient)
        images = decoder(leaf)
        log_scores = scorer.log_scores(prompts, images)
        scores = log_scores.detach().exp().clamp(max=1.0).cpu()
        gradients = None
        if gradient:
            (log_gradients,) = torch.autograd.grad(log_scores.sum(), leaf)
            gradients = log_gradients.cpu() * scores.to(log_gradients.dtype)[:, None, None, None]
    check_finite("score", scores)
    if gradients is not None:
        check_finite("gradient", gradients)
    pixels = to_uint8(images)
    _refuse_flat(pixels)
    return Scores(scores, gradients, pixels)


def _refuse_flat(pixels: Tensor) -> None:
    """A filter's black, or what an overflow in half precision leaves; no image a model means has a single colour."""
    first = pixels[:, :1, :1]
    flat = (pixels == first).flatten(1).all(1).nonzero().flatten().tolist()
    if flat:
        raise UnusableImage(f"the image is one flat colour, {first[flat[0]].flatten().tolist()}, at positions {flat}")
