"""Random diffusion: the paper's adaptive step without its gradient (ablation in arXiv 2411.16503)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from noisesmith.pipeline.noise import NoiseKey, step_size, update
from noisesmith.pipeline.optimizers.base import Feedback, Proposal


@dataclass(frozen=True)
class RandomDiffusion:
    """γ = 1 − √s; z_T ← √(1−γ)·z_T + √γ·σ with one random σ."""

    needs_gradient = False

    def propose(self, memory: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        noise, gamma = memory[0], step_size(feedback.score)
        return Proposal(update(noise, gamma, key.draw(0, noise.shape))[None], gamma, 0)
