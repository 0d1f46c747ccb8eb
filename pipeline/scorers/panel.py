"""Scorers that steer together: those of one process read the same decoded images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noisesmith.pipeline.config import CalibrationConfig, MemberConfig
from noisesmith.pipeline.scorers.base import ImageScorer
from noisesmith.pipeline.scorers.calibration import calibrate


@dataclass(frozen=True)
class Member:
    """A loaded scorer and its part in the panel.

    Attributes:
        steers: whether its gradient is used; otherwise it counts in the score alone.
        overshoots: whether it sees the decoder's raw output, beyond [0, 1].
    """

    scorer: ImageScorer
    weight: float = 1.0
    steers: bool = True
    calibration: CalibrationConfig | None = None
    overshoots: bool = False

    @classmethod
    def of(cls, config: MemberConfig, scorer: ImageScorer) -> Member:
        """A loaded scorer as its section of the config places it."""
        overshoots = reads_overshoot(config)
        return cls(scorer, config.weight, config.gradient, config.calibration, overshoots)

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """Calibrated log s ``[B]`` of images ``[B, 3, H, W]`` that may overshoot [0, 1]."""
        seen = images if self.overshoots else images.clamp(0, 1)
        log_scores = self.scorer.log_scores(prompts, seen)
        return log_scores if self.calibration is None else calibrate(log_scores, self.calibration)


@dataclass(frozen=True)
class Group:
    """The members of a panel that one process holds.

    Attributes:
        lowest: steer by the member with the lowest score, and not by the weighted sum.
    """

    members: tuple[Member, ...]
    lowest: bool = False

    @property
    def steers(self) -> bool:
        """Whether any member has a gradient that is used."""
        return any(member.steers for member in self.members)

    def log_scores(self, prompts: list[str], images: Tensor) -> Tensor:
        """log s ``[M, B]`` of M members; differentiable where a member steers and the images want a gradient."""
        found = []
        for member in self.members:
            if member.steers:
                found.append(member.log_scores(prompts, images))
                continue
            with torch.no_grad():
                found.append(member.log_scores(prompts, images.detach()))
        first = found[0]
        return torch.stack([log_scores.to(first) for log_scores in found])

    def steering(self, log_scores: Tensor) -> Tensor:
        """What this group's gradient is of: Σ wᵢ·log sᵢ of its steering members, or their lowest log s; ``[B]``.

        Args:
            log_scores: ``[M, B]`` from :meth:`log_scores`.
        """
        steering = [position for position, member in enumerate(self.members) if member.steers]
        if self.lowest:
            lowest: Tensor = log_scores[steering].amin(0)
            return lowest
        weighted = [self.members[position].weight * log_scores[position] for position in steering]
        return torch.stack(weighted).sum(0)


def reads_overshoot(config: MemberConfig) -> bool:
    """Whether a scorer sees the decoder's raw output: the official implementation's readout does."""
    return config.readout == "reference"


def group_of(configs: Sequence[MemberConfig], scorers: Sequence[ImageScorer], combine: str | None) -> Group:
    """A group of loaded scorers, as their sections place them."""
    members = [Member.of(config, scorer) for config, scorer in zip(configs, scorers, strict=True)]
    return Group(tuple(members), lowest=combine == "min")
