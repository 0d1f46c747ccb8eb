"""No search: the first image is the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.optimizers.base import Feedback, Optimizer, Proposal

if TYPE_CHECKING:
    from torch import Tensor


class NoSearch(Optimizer):
    """Only the first image is made; its config allows no rounds."""

    def propose(self, state: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        raise ValueError("method none makes no rounds, so it proposes no noise")
