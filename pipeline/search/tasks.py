"""What a search asks of generators and scorers, and what it records of their answers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from noisesmith.pipeline.config import Resolution
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.records import NoiseStats, Question, Recipe

T = TypeVar("T")
ModelUse: TypeAlias = AbstractContextManager[object]  # entered while a call uses the models
ALONE: ModelUse = nullcontext()  # for a process whose calls never overlap


@dataclass(frozen=True)
class NextImage:
    """One image to make: its search round, the image whose noise it starts from, and its sampler steps.

    ``rerender`` marks the image of a preview or a probe at full steps; it belongs to their round. It begins with the
    preview's noise, or goes on where the probe has stopped, after ``taken`` steps.
    """

    round: int
    parent: int | None
    steps: int
    rerender: bool = False
    taken: int = 0

    @property
    def lane(self) -> tuple[int, int]:
        """Images share a batch only where this is equal: the sampler steps at which they begin and end."""
        return self.taken, self.steps


@dataclass(frozen=True)
class ImageRecord:
    """How one image was made: the (γ, index) of its move, its noise's statistics and digest, its batch and its cost.

    ``evaluations`` counts U-Net evaluations: one is one denoising step of one row, guidance included. ``shape`` is that
    of z_T. ``tokens_cut`` counts the tokens at the end of the prompt that no text encoder has read.
    """

    gamma: float
    index: int
    noise: NoiseStats
    digest: str
    batch_size: int
    evaluations: float
    shape: tuple[int, ...]
    tokens_cut: int = 0


@dataclass(frozen=True)
class GenerateTask:
    """One row's position in a generator's batch; ``score`` is that of the image it starts from, absent at first.

    ``begins`` rebuilds the noise of the first image, where a row continues the search of another one.

    Attributes:
        steps: that the sampler is set to.
        stop: the step after which a probe stops; ``None`` for an image that is made to its end.
        taken: steps that are taken already, of a probe that goes on.
        scored_steps: ``steps`` of the image it starts from; ``None`` for the same.
        scored_at: ``stop`` of the image it starts from.
        resolution: width and height of the image in pixels, ``None`` for the generator's own.
    """

    prompt: str
    subjects: tuple[str, ...]
    key: NoiseKey
    steps: int
    score: float | None = None
    rerender: bool = False
    begins: Recipe | None = None
    stop: int | None = None
    taken: int = 0
    scored_steps: int | None = None
    scored_at: int | None = None
    resolution: Resolution | None = None


@dataclass(frozen=True)
class ScoreTask:
    """One row's position in a scorer's batch.

    Attributes:
        gradient: whether the gradient is used.
        questions: about the prompt's parts, at least one where a scorer asks them.
        edits: prompts that the image must not show, where a scorer contrasts them with its prompt.
    """

    prompt: str
    gradient: bool
    questions: tuple[Question, ...] = ()
    edits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slope(Generic[T]):
    """One part of ∂log s/∂z_0: what a group of scorers has computed, and the factor with which it counts."""

    log_gradient: T
    factor: float


@dataclass(frozen=True)
class Start(Generic[T]):
    """What an image starts from: its parent's optimizer state, and the parts of ∂log s/∂z_0 where it was computed.

    ``paused`` is where its parent has stopped, for a probe that goes on.
    """

    state: T
    slopes: tuple[Slope[T], ...]
    paused: T | None = None
