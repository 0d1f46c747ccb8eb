"""The protocol of a search method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pipeline.noise import NoiseKey


@dataclass(frozen=True)
class Feedback:
    """What a round taught: the score in [0, 1] and, for methods that ask, ∂s/∂z_0 ``[C, H, W]`` float32.

    ``gain`` is the sampler's c: ∇_{z_T} s = gain · ∇_{z_0} s with the model's predictions held constant.
    """

    score: float
    gradient: Tensor | None
    gain: float


@dataclass(frozen=True)
class Proposal:
    """The next noise ``[C, H, W]`` and the (γ, index) that the recipe keeps of it."""

    noise: Tensor
    gamma: float
    index: int


class Optimizer(Protocol):
    """Stateless: everything a round needs comes in, everything the next one needs goes out."""

    @property
    def needs_gradient(self) -> bool: ...
    @property
    def candidates(self) -> int: ...

    def propose(self, noise: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        """The noise of round ``key.round`` from the noise of the round before and its feedback."""
        ...
