"""Random sampling: a fresh z_T each round, the best image kept (the paper's ablation)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from noisesmith.pipeline.noise import NoiseKey, update
from noisesmith.pipeline.optimizers.base import Feedback, Proposal


@dataclass(frozen=True)
class RandomSampling:
    """A full step, γ = 1, to the first candidate, whatever the score."""

    needs_gradient = False

    def propose(self, memory: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        noise = memory[0]
        return Proposal(update(noise, 1.0, key.draw(0, noise.shape))[None], 1.0, 0)
