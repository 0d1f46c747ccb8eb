"""What the search asks of a scorer, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Scores ``[B]`` in [0, 1], ∂s/∂z_0 ``[B, C, H, W]`` where asked for, and images ``[B, H, W, 3]`` uint8."""

    scores: Tensor
    gradients: Tensor | None
    images: Tensor


class ImageScorer(Protocol):
    """A frozen vision-language model asked whether images show their prompts."""

    id: str
    revision: str

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """log s ``[B]`` float32 for images ``[B, 3, H, W]`` in [0, 1]; differentiable with respect to the images.

        Only the ``reference`` readout gets the decoder's overshoot beyond [0, 1].
        """
        ...


class Judge(Protocol):
    """Looks at finished images and never steers."""

    id: str
    revision: str

    def judge(self, prompts: list[str], images: Tensor) -> list[float | None]:
        """A score in [0, 1] for each of images ``[B, 3, H, W]`` in [0, 1]; ``None`` where it cannot tell."""
        ...
