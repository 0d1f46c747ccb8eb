"""Noise Diffusion (arXiv 2411.16503): adaptive step, candidate selected by the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.noise import NoiseKey, select, step_size, update
from pipeline.optimizers.base import Feedback, Proposal


@dataclass(frozen=True)
class NoiseDiffusion:
    """γ = 1 − √s; σ* = argmax ⟨∇s, v_i⟩/‖v_i‖² of ``candidates`` draws; z_T ← √(1−γ)·z_T + √γ·σ*."""

    candidates: int = 50
    needs_gradient = True

    def propose(self, noise: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        if feedback.gradient is None:
            raise ValueError("noise_diffusion needs the gradient of the score")
        gamma = step_size(feedback.score)
        index = select(noise, gamma, feedback.gradient, key, self.candidates) if gamma > 0 else 0
        return Proposal(update(noise, gamma, key.draw(index, noise.shape)), gamma, index)
