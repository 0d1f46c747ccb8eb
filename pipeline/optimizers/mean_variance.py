"""Mean and variance of the noise, element by element (ablation in arXiv 2411.16503, after InitNO's parameters)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import MeanVarianceConfig
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.noise import NoiseKey, storable, within_kl
from noisesmith.pipeline.optimizers.base import Feedback, Optimizer, Proposal

if TYPE_CHECKING:
    from torch import Tensor

BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8


@dataclass(frozen=True)
class MeanVariance(Optimizer):
    """z_T = μ + σ⊙ε, ε the row's first noise; Adam (arXiv 1412.6980) ascends s in μ and log σ².

    After each update (μ, log σ²) is scaled back until KL(N(μ, σ²) ‖ N(0, 1)) ≤ ``kl_bound`` nats per element.
    The optimizer state holds, after z_T: μ, log σ², and Adam's first and second moments of each.
    """

    config: MeanVarianceConfig

    def propose(self, state: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        slope = feedback.slope("mean_variance")
        shape = state.shape[1:]
        epsilon = NoiseKey(key.seed, key.row_id, 0).draw(0, shape)
        carried = state[1:] if len(state) > 1 else torch.zeros(6, *shape)
        parameters, first, second = carried[:2], carried[2:4], carried[4:]

        # ∂z_T/∂μ = 1 and ∂z_T/∂(log σ²) = ε·σ/2
        ascent = slope * feedback.gain
        deviation = (parameters[1] / 2).exp()
        gradient = torch.stack([ascent, ascent * epsilon * deviation / 2])

        first = BETA_1 * first + (1 - BETA_1) * gradient
        second = BETA_2 * second + (1 - BETA_2) * gradient.square()
        unbiased = first / (1 - BETA_1**key.round)
        scale = (second / (1 - BETA_2**key.round)).sqrt() + EPSILON
        parameters = parameters + self.config.learning_rate * unbiased / scale

        means, log_variances = within_kl(parameters[:1], parameters[1:], self.config.kl_bound)
        mean, log_variance = means[0], log_variances[0]
        noise = storable(mean + (log_variance / 2).exp() * epsilon)
        return Proposal(torch.stack([noise, mean, log_variance, *first, *second]))
