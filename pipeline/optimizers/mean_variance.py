"""Mean and variance of the noise, element by element (ablation in arXiv 2411.16503, after InitNO's parameters)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noisesmith.pipeline.noise import NoiseKey, storable, within_kl
from noisesmith.pipeline.optimizers.base import Feedback, Proposal

BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class MeanVariance:
    """z_T = μ + σ⊙ε, ε the row's first noise; Adam (arXiv 1412.6980) ascends s in μ and log σ².

    After each step (μ, log σ²) is scaled back until KL(N(μ, σ²) ‖ N(0, 1)) ≤ ``kl_bound`` nats an element.
    Remembers, behind z_T: μ, log σ², and Adam's two moments of each.
    """

    learning_rate: float = 0.01
    kl_bound: float = 1e-3
    needs_gradient = True

    def propose(self, memory: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        slope = feedback.slope("mean_variance")
        shape = memory.shape[1:]
        epsilon = NoiseKey(key.seed, key.row_id, 0).draw(0, shape)
        state = memory[1:] if len(memory) > 1 else torch.zeros(6, *shape)
        parameters, first, second = state[:2], state[2:4], state[4:]
        ascent = slope * feedback.gain
        gradient = torch.stack([ascent, ascent * epsilon * (parameters[1] / 2).exp() / 2])
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient.square()
        unbiased = first / (1 - BETAS[0] ** key.round)
        scale = (second / (1 - BETAS[1] ** key.round)).sqrt() + EPSILON
        parameters = parameters + self.learning_rate * unbiased / scale
        (mean,), (log_variance,) = within_kl(parameters[:1], parameters[1:], self.kl_bound)
        noise = storable(mean + (log_variance / 2).exp() * epsilon)
        return Proposal(torch.stack([noise, mean, log_variance, *first, *second]))
