"""Projected gradient ascent on the noise (ablation in arXiv 2411.16503)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import PgdConfig
from noisesmith.pipeline.noise import NoiseKey, storable
from noisesmith.pipeline.optimizers.base import Feedback, Optimizer, Proposal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pgd(Optimizer):
    """z_T ← Π(z_T + η·∇_{z_T} s), Π the projection to ‖z_T‖ ≤ ``norm_bound``·√D.

    With ``normalize`` the move is η·√D along the unit gradient, so that η does not depend on the score's scale.
    Nothing keeps the noise normal: every row's noise statistics show its drift.
    """

    config: PgdConfig

    def propose(self, state: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        noise = state[0]
        root = math.sqrt(noise.numel())
        if self.config.normalize:
            direction = feedback.direction("pgd") * feedback.gain
            ascent = direction * (root / max(float(direction.norm()), 1e-30))
        else:
            ascent = feedback.slope("pgd") * feedback.gain
        moved = noise + self.config.step * ascent
        if self.config.norm_bound is not None:
            moved = moved * min(1.0, self.config.norm_bound * root / float(moved.norm()))
        return Proposal(storable(moved)[None])
