"""Random sampling: a fresh z_T per round, the best image kept (ablation in arXiv 2411.16503)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisesmith.pipeline.noise import NoiseKey, update
from noisesmith.pipeline.optimizers.base import Feedback, Optimizer, Proposal

if TYPE_CHECKING:
    from torch import Tensor


class RandomSampling(Optimizer):
    """A full move, γ = 1, to the first candidate, whatever the score."""

    def propose(self, state: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        noise = state[0]
        candidate = key.draw(0, noise.shape)
        return Proposal(update(noise, 1.0, candidate)[None], gamma=1.0, index=0)
