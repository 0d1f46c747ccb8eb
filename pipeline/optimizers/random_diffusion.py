"""Random diffusion: the paper's adaptive step size without its gradient (ablation in arXiv 2411.16503)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisesmith.pipeline.noise import NoiseKey, step_size, update
from noisesmith.pipeline.optimizers.base import Feedback, Optimizer, Proposal

if TYPE_CHECKING:
    from torch import Tensor


class RandomDiffusion(Optimizer):
    """γ = 1 − √s; z_T ← √(1−γ)·z_T + √γ·σ with one random σ."""

    def propose(self, state: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        noise = state[0]
        gamma = step_size(feedback.score)
        candidate = key.draw(0, noise.shape)
        return Proposal(update(noise, gamma, candidate)[None], gamma, index=0)
