"""Noise Diffusion (arXiv 2411.16503): adaptive step size, candidate selected by the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import NoiseDiffusionConfig
from noisesmith.pipeline.noise import NoiseKey, along, largest_of, select, step_size, storable, update
from noisesmith.pipeline.optimizers.base import Feedback, Optimizer, Proposal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoiseDiffusion(Optimizer):
    """γ = 1 − √s; σ* = argmax_i ⟨∇s, v_i⟩ / ‖v_i‖² of N draws; z_T ← √(1−γ)·z_T + √γ·σ* (paper, section 3).

    With ``selection: order_statistic`` σ* = σ_⊥ + t·ĝ stands for the N draws, t being the largest of N normals. In high
    dimension ‖v_i‖² hardly varies, so the best of N is the one furthest along the gradient: its part along the
    gradient follows the law of the maximum, the rest is a fresh draw. One draw stands for any N.
    """

    config: NoiseDiffusionConfig

    def propose(self, state: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        noise = state[0]
        gamma = step_size(feedback.score)
        gradient = feedback.direction("noise_diffusion")
        if self.config.selection == "order_statistic":
            candidate = self._order_statistic(gradient, key)
            return Proposal(storable(update(noise, gamma, candidate))[None], gamma)
        # At γ = 0 every candidate leaves the noise where it is, so none needs to be drawn.
        index = select(noise, gamma, gradient, key, self.config.candidates) if gamma > 0 else 0
        candidate = key.draw(index, noise.shape)
        return Proposal(update(noise, gamma, candidate)[None], gamma, index)

    def _order_statistic(self, gradient: Tensor, key: NoiseKey) -> Tensor:
        length = largest_of(self.config.candidates, float(key.draw(1, (1,))))
        return along(key.draw(0, gradient.shape), gradient, length)
