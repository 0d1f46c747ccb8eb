"""What the search asks of a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from noisesmith.pipeline.config import GeneratorConfig, Resolution
from noisesmith.pipeline.models.libraries import Pipeline

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LatentSpec:
    """The shapes of one row.

    Attributes:
        shape: of z_T ~ N(0, I), as the pipeline's ``latents`` takes it: ``(C, H/f, W/f)``, or ``(tokens, features)``
            where the family packs its latents into patches.
        height, width: of the image, in pixels.
        decoded: of z_0, as the decoder takes it.
    """

    shape: tuple[int, ...]
    height: int
    width: int
    decoded: tuple[int, ...]


class Generator(Protocol):
    """A frozen diffusion model under a deterministic sampler."""

    id: str
    revision: str
    spec: LatentSpec
    config: GeneratorConfig
    pipe: Pipeline  # the diffusers pipeline

    def sized(self, resolution: Resolution | None) -> Generator:
        """The same model for images of another size, which becomes its ``spec``; itself where that is ``None``.

        Raises:
            UserError: it makes no images of that size.
        """
        ...

    def gain(self, steps: int, stop: int | None = None) -> float:
        """c > 0 with z_0 = c·z_T + const over ``steps`` sampler steps, the model's predictions being held constant.

        With ``stop`` it is that of the x_0 which :meth:`probe` gives after so many of them. 1 where :meth:`pull_back`
        has the factors, one for each number.
        """
        ...

    def pull_back(self, slope: Tensor, steps: int, stop: int | None = None) -> Tensor:
        """∂s/∂z_0 of one row as a slope at z_T, without the factor :meth:`gain`: moved to where z_T has its numbers.

        With ``stop`` it is ∂s/∂x_0 of what :meth:`probe` gives.

        Raises:
            UserError: z_0 does not follow z_T number by number.
        """
        ...

    def plain(self, text: str) -> str:
        """The text with no token in it that would steer a text encoder, as :func:`plain`."""
        ...

    def tokens_cut(self, prompts: Sequence[str]) -> list[int]:
        """How many tokens at the end of each prompt no text encoder reads; 0 where all of it is read."""
        ...

    def sample(self, prompts: list[str], noise: Tensor, steps: int) -> Tensor:
        """Denoise ``noise`` ``[B, …]`` float32 ~ N(0, I) in ``steps`` into z_0 ``[B, …]`` float32, on the CPU.

        z_0 is what the decoder takes: the sampler's result, or what the pipeline hands to its VAE.
        """
        ...

    def probe(self, prompts: list[str], noise: Tensor, steps: int, stop: int) -> tuple[Tensor, Tensor]:
        """Take the first ``stop`` of ``steps`` sampler steps from ``noise``.

        Returns:
            x_0 ``[B, …]`` as the model predicts it in the last of them, like z_0 of :meth:`sample`; and where the
            sampling has paused, ``[B, 1 + H, …]`` float32 on the CPU (``generators.pausing``).
        """
        ...

    def finish(self, prompts: list[str], paused: Tensor, steps: int, taken: int) -> Tensor:
        """z_0 ``[B, …]`` of what :meth:`probe` has paused after ``taken`` of ``steps`` steps.

        At batch size 1 it equals that of :meth:`sample` bit for bit.
        """
        ...
