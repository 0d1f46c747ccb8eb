"""The course of one row's search: what is kept, when it stops, and the recipe that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.config import OptimizerConfig, RunConfig
from pipeline.noise import NoiseKey, digest, statistics
from pipeline.optimizers import Feedback, Optimizer
from pipeline.records import NoiseStats, Recipe, Result, Row


@dataclass(frozen=True)
class Step:
    """One generated image's noise: the (γ, index) that led to it, its statistics and digest, the size of its batch."""

    gamma: float
    index: int
    noise: NoiseStats
    digest: str
    batch_size: int


@dataclass
class RowSearch:
    """Round 0 is the first image; every later round is one step of the optimizer. The best image is kept."""

    row: Row
    steps: list[Step] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kept: int = 0

    @property
    def round(self) -> int:
        """The round to generate next."""
        return len(self.steps)

    @property
    def best(self) -> float | None:
        return self.scores[self.kept] if self.scores else None

    def scored(self, score: float) -> bool:
        """Record the score of the last image; true where it is the best so far (the earliest of equals is kept)."""
        best = self.best
        self.scores.append(score)
        if best is None or score > best:
            self.kept = len(self.scores) - 1
            return True
        return False

    def stop_reason(self, config: OptimizerConfig) -> str | None:
        """``perfect``, ``target``, ``patience``, ``rounds``, or ``None`` while the search goes on."""
        best = self.scores[self.kept]
        if best >= 1.0:
            return "perfect"
        if config.target_score is not None and best >= config.target_score:
            return "target"
        rounds = len(self.scores) - 1
        if rounds >= config.rounds:
            return "rounds"
        if config.patience is not None and rounds - self.kept >= config.patience:
            return "patience"
        return None

    def result(
        self,
        config: RunConfig,
        shape: tuple[int, ...],
        size: tuple[int, int],
        stop_reason: str,
        judges: dict[str, tuple[float | None, float | None]],
    ) -> Result:
        """The finished row without its image bytes, which join it at the writer.

        Args:
            shape: latent shape of one row. size: (width, height) of the image in pixels.
        """
        kept = self.steps[self.kept]
        folded = self.steps[1 : self.kept + 1]
        recipe = Recipe(
            method=config.optimizer.method,
            seed=config.seed,
            shape=shape,
            gammas=tuple(step.gamma for step in folded),
            indices=tuple(step.index for step in folded),
            candidates=getattr(config.optimizer, "candidates", 1),
            batch_size=kept.batch_size,
            digest=kept.digest,
        )
        return Result(
            row=self.row,
            image=b"",
            image_initial=None,
            width=size[0],
            height=size[1],
            scores=tuple(self.scores),
            score=self.scores[self.kept],
            rounds=len(self.scores) - 1,
            stop_reason=stop_reason,
            judges=judges,
            seed=config.seed,
            recipe=recipe,
            noise=kept.noise,
        )


@dataclass(frozen=True)
class GenerateTask:
    """One row's place in a generator's batch; ``score`` is that of the round before, absent in round 0."""

    prompt: str
    key: NoiseKey
    score: float | None


@dataclass(frozen=True)
class ScoreTask:
    """One row's place in a scorer's batch: ``best`` so far, and whether a gradient will be used."""

    prompt: str
    best: float | None
    gradient: bool


def next_noise(
    optimizer: Optimizer,
    task: GenerateTask,
    shape: tuple[int, ...],
    gain: float,
    noise: Tensor | None,
    gradient: Tensor | None,
    batch_size: int,
) -> tuple[Tensor, Step]:
    """The noise a task generates from: the row's first draw in round 0, the optimizer's proposal later."""
    if task.key.round == 0:
        proposed, gamma, index = task.key.draw(0, shape), 1.0, 0
    else:
        assert noise is not None
        assert task.score is not None
        proposal = optimizer.propose(noise, Feedback(task.score, gradient, gain), task.key)
        proposed, gamma, index = proposal.noise, proposal.gamma, proposal.index
    return proposed, Step(gamma, index, statistics(proposed), digest(proposed), batch_size)


def device_for(num_gpus: float) -> str:
    """``cuda`` for an actor that holds a GPU or a part of one, else ``cpu``."""
    return "cuda" if num_gpus > 0 and torch.cuda.is_available() else "cpu"
