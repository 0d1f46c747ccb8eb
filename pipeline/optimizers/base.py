"""The protocol of a search method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from noisesmith.pipeline.noise import NoiseKey


@dataclass(frozen=True)
class Feedback:
    """What a round taught: the score in [0, 1] and, for methods that ask, ∂s/∂z_0 ``[C, H, W]`` float32.

    ``gain`` is the sampler's c: ∇_{z_T} s = gain · ∇_{z_0} s with the model's predictions held constant.
    """

    score: float
    gradient: Tensor | None
    gain: float

    def slope(self, method: str) -> Tensor:
        """The gradient, for a method that needs it.

        Raises:
            ValueError: there is none.
        """
        if self.gradient is None:
            raise ValueError(f"{method} needs the gradient of the score")
        return self.gradient


@dataclass(frozen=True)
class Proposal:
    """The next memory ``[1 + K, C, H, W]``, z_T first, and the (γ, index) that the recipe keeps of the move."""

    memory: Tensor
    gamma: float = 0.0
    index: int = 0


class Optimizer(Protocol):
    """Stateless: everything a round needs comes in, everything the next one needs goes out.

    A method whose z_T is no fold over seeded candidates proposes float16 values (``storable``), which
    can be stored exactly.
    """

    @property
    def needs_gradient(self) -> bool: ...

    def propose(self, memory: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        """The memory of round ``key.round`` from that of an earlier round and its feedback.

        Args:
            memory: ``[1 + K, C, H, W]`` float32: z_T, then what the method remembers; ``[1, C, H, W]`` after the
                first image.
        """
        ...
