"""Scorers that steer together: those of one process read the same decoded images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from noisesmith.pipeline.config import CalibrationConfig, MemberConfig
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.scorers.base import ContrastScorer, ImageScorer, QuestionScorer
from noisesmith.pipeline.scorers.calibration import calibrate

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """What a group of M scorers says of B images.

    Attributes:
        log_scores: log s ``[M, B]``.
        log_atoms: for each image Σ wᵢ·log P(answer) ``[n]`` of its n questions, over the members that ask them; empty
            where none does.
    """

    log_scores: Tensor
    log_atoms: list[Tensor]


@dataclass(frozen=True)
class Asked:
    """What the scorers are asked about B images: their prompts, and as a task has them their questions and edits."""

    prompts: list[str]
    questions: Sequence[Sequence[Question]] = ()
    edits: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Member:
    """A loaded scorer and its part in the panel.

    Attributes:
        steers: whether its gradient is used; otherwise it counts in the score alone.
        overshoots: whether it sees the decoder's raw output, beyond [0, 1].
        asks_questions: whether it is asked the questions about the prompts' parts, and not the prompts.
        contrasts: whether it contrasts the prompts with edits of them.
    """

    scorer: ImageScorer
    weight: float = 1.0
    steers: bool = True
    calibration: CalibrationConfig | None = None
    overshoots: bool = False
    asks_questions: bool = False
    contrasts: bool = False

    @classmethod
    def of(cls, config: MemberConfig, scorer: ImageScorer) -> Member:
        """A loaded scorer as its section of the config places it."""
        return cls(
            scorer,
            config.weight,
            config.gradient,
            config.calibration,
            overshoots=reads_overshoot(config),
            asks_questions=config.asks == "questions",
            contrasts=config.readout == "contrastive",
        )

    def answer(self, asked: Asked, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Calibrated log s ``[B]`` of images ``[B, 3, H, W]`` that may overshoot [0, 1], and log P of each answer.

        Where it is asked questions, s is the geometric mean of P(answer), before the calibration.
        """
        seen = images if self.overshoots else images.clamp(0, 1)
        log_atoms: list[Tensor] = []
        if self.asks_questions:
            log_atoms = cast(QuestionScorer, self.scorer).log_answers(asked.questions, seen)
            log_scores = torch.stack([answers.mean() for answers in log_atoms])
        elif self.contrasts:
            log_scores = cast(ContrastScorer, self.scorer).log_contrasts(asked.prompts, asked.edits, seen)
        else:
            log_scores = self.scorer.log_scores(asked.prompts, seen)
        return (log_scores if self.calibration is None else calibrate(log_scores, self.calibration)), log_atoms


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

    def answer(self, asked: Asked, images: Tensor) -> Answers:
        """What the members say; differentiable where a member steers and the images want a gradient."""
        found = []
        weighted: list[list[Tensor]] = []  # by member that asks questions, and by image
        for member in self.members:
            with torch.set_grad_enabled(member.steers and torch.is_grad_enabled()):
                log_scores, log_atoms = member.answer(asked, images if member.steers else images.detach())
            found.append(log_scores)
            if log_atoms:
                weighted.append([member.weight * answers.detach().double().cpu() for answers in log_atoms])
        first = found[0]
        log_atoms = [torch.stack(of_image).sum(0) for of_image in zip(*weighted, strict=True)]
        return Answers(torch.stack([log_scores.to(first) for log_scores in found]), log_atoms)

    def steering(self, log_scores: Tensor) -> Tensor:
        """What this group's gradient is of: Σ wᵢ·log sᵢ of its steering members, or their lowest log s; ``[B]``.

        Args:
            log_scores: ``[M, B]`` from :meth:`answer`.
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
