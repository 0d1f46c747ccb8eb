"""The tokens of answers: what a language model is made to say, and how probable it finds that.

Answers of a batch may differ in length. Their tokens are the rows of a tensor ``[B, L]``, filled with :data:`NONE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Settings

if TYPE_CHECKING:
    from torch import Tensor

NONE = -1


def pad_labels(rows: Sequence[Sequence[int]]) -> Tensor:
    """The tokens of each row's answer, ``[B, L]``, with :data:`NONE` where an answer is shorter than the longest."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[NONE] * (longest - len(row))] for row in rows])


def log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-probability ``[B, L]`` of each label by logits ``[B, L, vocabulary]``; 0 where there is none."""
    labels = labels.to(logits.device)
    spoken = torch.log_softmax(exact(logits), dim=-1).gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
    return torch.where(labels == NONE, 0, spoken)


def mean_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean log-probability ``[B]`` of the labels by logits ``[B, L, vocabulary]``."""
    counts = (labels != NONE).sum(1).to(logits.device)
    return log_probabilities(logits, labels).sum(1) / counts


def exact(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 where they are: half precision is too coarse for a log-probability."""
    return logits if logits.dtype == torch.float64 else logits.float()


def force_after(ids: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids ``[B, T]`` and mask with all labels but the last appended, for a decoder-only model."""
    forced = labels[:, :-1].to(ids.device)
    return torch.cat([ids, forced.clamp(min=0)], 1), torch.cat([mask, (forced != NONE).to(mask.dtype)], 1)


def decoder_inputs(config: Settings, labels: Tensor, device: torch.device) -> Tensor:
    """``[B, L]`` inputs that make a T5 decoder predict each label, those before it given."""
    start = getattr(config, "decoder_start_token_id", None)
    start = config.pad_token_id if start is None else start
    return torch.nn.functional.pad(labels[:, :-1].clamp(min=0), (1, 0), value=start).to(device)


def each_image(
    ask: Callable[[range, Tensor], Tensor], counts: Sequence[int], images: Tensor, at_once: int
) -> list[Tensor]:
    """Ask several things about each image, in batches of at most ``at_once``.

    The activations of one batch at a time are kept: where there are several, each is computed again for its gradient.

    Args:
        ask: the answers ``[N]`` to the questions of a range, given their images ``[N, 3, H, W]``.
        counts: how many questions there are about each of ``images``.

    Returns:
        for each image the answers ``[count]``.
    """
    from torch.utils.checkpoint import checkpoint

    about = torch.tensor([image for image, count in enumerate(counts) for _ in range(count)], device=images.device)
    batches = list(_ranges(len(about), at_once))
    answers = []
    for batch in batches:

        def answer(shown: Tensor, batch: range = batch) -> Tensor:
            return ask(batch, shown[about[batch.start : batch.stop]])

        if len(batches) > 1 and images.requires_grad:
            answers.append(checkpoint(answer, images, use_reentrant=False, preserve_rng_state=False))
        else:
            answers.append(answer(images))
    return list(torch.cat(answers).split(list(counts)))


def _ranges(length: int, size: int) -> Iterator[range]:
    for start in range(0, length, size):
        yield range(start, min(start + size, length))
