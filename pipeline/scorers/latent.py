"""The score of a z_0 and its gradient: decoder and image scorer as one differentiable function."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.scorers.base import ImageScorer, Scores
from pipeline.scorers.decoder import Decoder, to_uint8


def score_latents(
    decoder: Decoder, scorer: ImageScorer, prompts: list[str], latents: Tensor, *, gradient: bool
) -> Scores:
    """Score z_0 ``[B, C, h, w]`` against B prompts, with ∂s/∂z_0 where ``gradient`` is set.

    The gradient is taken of log s and multiplied by s, so that a small score does not underflow in half precision.
    Rows do not mix: the gradient of the sum is each row's own.

    Raises:
        FloatingPointError: a score or gradient is not finite; the message gives the positions in the batch.
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
    _check_finite("score", scores[:, None])
    if gradients is not None:
        _check_finite("gradient", gradients.flatten(1))
    return Scores(scores, gradients, to_uint8(images))


def _check_finite(name: str, values: Tensor) -> None:
    bad = (~values.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"{name} is not finite for batch positions {bad}")
