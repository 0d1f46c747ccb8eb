"""Projected gradient ascent on the noise (ablation in arXiv 2411.16503)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from noisesmith.pipeline.noise import NoiseKey, storable
from noisesmith.pipeline.optimizers.base import Feedback, Proposal


@dataclass(frozen=True)
class Pgd:
    """z_T ← Π(z_T + η·∇_{z_T} s), Π the projection to ‖z_T‖ ≤ ``norm_bound``·√D.

    With ``normalize`` the step is η·√D along the unit gradient, so that η does not depend on the score's scale.
    Nothing keeps the noise normal: its drift is in every row's noise statistics.
    """

    step: float = 0.1
    normalize: bool = True
    norm_bound: float | None = None
    needs_gradient = True

    def propose(self, memory: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        slope = feedback.slope("pgd")
        noise, root = memory[0], math.sqrt(memory[0].numel())
        ascent = slope * feedback.gain
        if self.normalize:
            ascent = ascent * (root / max(float(ascent.norm()), 1e-30))
        moved = noise + self.step * ascent
        if self.norm_bound is not None:
            moved = moved * min(1.0, self.norm_bound * root / float(moved.norm()))
        return Proposal(storable(moved)[None])
