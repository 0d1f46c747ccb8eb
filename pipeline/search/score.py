"""The second half of a round: decode z_0, score the images, and differentiate log s with respect to z_0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from noisesmith.pipeline.errors import UnusableImage
from noisesmith.pipeline.generators import Decoder
from noisesmith.pipeline.images import extreme_levels
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.noise import check_finite
from noisesmith.pipeline.scorers import Asked, Group, Scores
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.tasks import ALONE, ModelUse, ScoreTask

if TYPE_CHECKING:
    from torch import Tensor


def score(
    decoder: Decoder,
    group: Group,
    tasks: Sequence[ScoreTask],
    latents: Tensor,
    use: ModelUse = ALONE,
) -> list[Opinion[Tensor]]:
    """What a group of scorers says of a batch of z_0 ``[B, C, h, w]``, row by row.

    One row that needs a gradient makes the whole batch compute it.

    Args:
        use: entered while the models are used.

    Raises:
        FloatingPointError, UnusableImage: see :func:`score_latents`.
    """
    asked = Asked([task.prompt for task in tasks], [task.questions for task in tasks], [task.edits for task in tasks])
    needs_gradient = any(task.gradient for task in tasks)
    with use:
        result = score_latents(decoder, group, asked, latents, gradient=needs_gradient)
    opinions = []
    for position, log_scores in enumerate(result.log_scores.T.tolist()):
        log_gradient = None if result.log_gradients is None else result.log_gradients[position]
        log_atoms = tuple(result.log_atoms[position].tolist()) if result.log_atoms else ()
        opinions.append(Opinion(tuple(log_scores), log_gradient, log_atoms))
    return opinions


def score_latents(
    decoder: Decoder, group: Group, asked: Asked | list[str], latents: Tensor, *, gradient: bool
) -> Scores:
    """Score z_0 ``[B, C, h, w]``, with the group's gradient where ``gradient`` is set.

    The images are decoded once for all members. Rows do not mix: the gradient of the sum is each row's own.

    Args:
        asked: about each image; a list of prompts where nothing else is.

    Raises:
        FloatingPointError: a score or gradient is not finite; the message gives the positions in the batch.
        UnusableImage: an image is of one flat colour, whatever the scorers make of it.
    """
    gradient = gradient and group.steers
    with torch.set_grad_enabled(gradient):
        leaf = latents.detach().clone().requires_grad_(gradient)
        images = decoder(leaf)
        answers = group.answer(asked if isinstance(asked, Asked) else Asked(asked), images)
        log_scores = answers.log_scores
        log_gradients = None
        if gradient:
            (slopes,) = torch.autograd.grad(group.steering(log_scores).sum(), leaf)
            log_gradients = slopes.cpu()
    result = Scores(log_scores.detach().cpu(), log_gradients, answers.log_atoms)
    check_finite("score", result.scores.T)
    if log_gradients is not None:
        check_finite("gradient", log_gradients)
    _refuse_flat(images)
    return result


def _refuse_flat(images: Tensor) -> None:
    """A filter's black, or what an overflow in half precision leaves; no image a model means has a single colour."""
    darkest, brightest = extreme_levels(images)
    flat = (darkest == brightest).all(1).nonzero().flatten().tolist()
    if flat:
        raise UnusableImage(f"the image is one flat colour, {darkest[flat[0]].tolist()}, at positions {flat}")
