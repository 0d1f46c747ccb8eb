"""Noise Diffusion (arXiv 2411.16503): adaptive step, candidate selected by the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from noisesmith.pipeline.noise import NoiseKey, along, largest_of, select, step_size, storable, update
from noisesmith.pipeline.optimizers.base import Feedback, Proposal


@dataclass(frozen=True)
class NoiseDiffusion:
    """γ = 1 − √s; σ* = argmax ⟨∇s, v_i⟩/‖v_i‖² of ``candidates`` draws; z_T ← √(1−γ)·z_T + √γ·σ*."""

    candidates: int = 50
    needs_gradient = True

    def propose(self, memory: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        slope = feedback.slope("noise_diffusion")
        noise, gamma = memory[0], step_size(feedback.score)
        index = select(noise, gamma, slope, key, self.candidates) if gamma > 0 else 0
        return Proposal(update(noise, gamma, key.draw(index, noise.shape))[None], gamma, index)


@dataclass(frozen=True)
class OrderStatistic:
    """As :class:`NoiseDiffusion`, with σ* = σ_⊥ + t·ĝ instead of N draws, t being the largest of N normals.

    In high dimension ‖v_i‖² hardly varies, so the best of N is the one furthest along the gradient: its part there
    follows the law of the maximum, the rest is a fresh draw. One draw stands for any N.
    """

    candidates: int = 50
    needs_gradient = True

    def propose(self, memory: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        slope = feedback.slope("noise_diffusion")
        noise, gamma = memory[0], step_size(feedback.score)
        length = largest_of(self.candidates, float(key.draw(1, (1,))))
        candidate = along(key.draw(0, noise.shape), slope, length)
        return Proposal(storable(update(noise, gamma, candidate))[None], gamma)
