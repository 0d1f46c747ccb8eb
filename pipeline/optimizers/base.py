"""What every search method has in common: a proposal of the next noise from what the last image taught."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.models.libraries import Pipeline
from noisesmith.pipeline.noise import NoiseKey

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Feedback:
    """What an image taught: its score in [0, 1] and, for gradient methods, ∂log s/∂z_0 of z_T's shape, float32.

    ``gain`` is the sampler's c: ∇_{z_T} s = gain · ∇_{z_0} s with the model's predictions held constant. Where a family
    packs or normalises its latents, the gradient has been pulled back through that (``Generator.pull_back``).
    """

    score: float
    log_gradient: Tensor | None
    gain: float

    def direction(self, method: str) -> Tensor:
        """∂log s/∂z_0, for a method that uses the gradient's direction alone.

        It points where ∂s/∂z_0 does, also where s is too small for a float.

        Raises:
            ValueError: the feedback has no gradient.
        """
        if self.log_gradient is None:
            raise ValueError(f"{method} needs the gradient of the score")
        return self.log_gradient

    def slope(self, method: str) -> Tensor:
        """∂s/∂z_0 = s · ∂log s/∂z_0, for a method that uses the gradient's length too.

        Raises:
            ValueError: the feedback has no gradient.
        """
        return self.score * self.direction(method)


@dataclass(frozen=True)
class Proposal:
    """The next optimizer state ``[1 + K, C, H, W]``, z_T first, and the (γ, index) that the recipe keeps of the move.

    ``evaluations`` counts the U-Net evaluations that the proposal itself took.
    """

    state: Tensor
    gamma: float = 0.0
    index: int = 0
    evaluations: float = 0.0


class Sampler(Protocol):
    """What a method may use of a loaded generator (see ``generators.base.Generator``)."""

    pipe: Pipeline  # the diffusers pipeline: only methods that read the U-Net's attention use it
    config: GeneratorConfig

    def sample(self, prompts: list[str], noise: Tensor, steps: int) -> Tensor: ...


@dataclass(frozen=True)
class Request:
    """One row of a batch, as a method sees it.

    ``subjects`` are the things the prompt asks for, written as in the prompt; empty for methods that do not read
    attention. ``steps`` are sampler steps, the same in the whole batch. ``rerender`` marks a preview
    or a probe that is made at full steps: its noise stays.
    """

    prompt: str
    subjects: Sequence[str]
    key: NoiseKey
    steps: int
    rerender: bool = False


class Optimizer(ABC):
    """A search method without state: everything a round needs comes in, everything the next one needs goes out.

    A method whose z_T no recipe rebuilds (``folds`` is false in its config) proposes noises of float16 values
    (``noise.storable``), which can be stored exactly. The first noise is a draw, which its recipe rebuilds.
    """

    @abstractmethod
    def propose(self, state: Tensor, feedback: Feedback, key: NoiseKey) -> Proposal:
        """The next optimizer state of one row, for round ``key.round``.

        Args:
            state: ``[1 + K, C, H, W]`` float32 of the image that the round starts from: z_T, then what the method
                carries along; ``[1, C, H, W]`` after the first image.
            feedback: what that image taught.
        """

    def prepare(self, requests: Sequence[Request], proposals: list[Proposal], sampler: Sampler) -> list[Proposal]:
        """Refine the proposals of a batch with the help of the diffusion model. Most methods change nothing here."""
        return proposals

    def denoise(self, requests: Sequence[Request], noise: Tensor, sampler: Sampler) -> tuple[Tensor, list[float]]:
        """Denoise ``noise`` ``[B, C, H, W]``.

        Returns:
            z_0 ``[B, C, H, W]`` float32 on the CPU, and the U-Net evaluations of every row.
        """
        prompts = [request.prompt for request in requests]
        steps = requests[0].steps
        return sampler.sample(prompts, noise, steps), [float(steps)] * len(requests)
