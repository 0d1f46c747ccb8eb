"""What the search asks of a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.models.libraries import Pipeline


@dataclass(frozen=True)
class LatentSpec:
    """Latent shape ``(C, H/f, W/f)`` of one row, and the image's size in pixels."""

    shape: tuple[int, int, int]
    height: int
    width: int


class Generator(Protocol):
    """A frozen diffusion model under a deterministic sampler."""

    id: str
    revision: str
    spec: LatentSpec
    config: GeneratorConfig
    pipe: Pipeline  # the diffusers pipeline

    def gain(self, steps: int) -> float:
        """c > 0 with z_0 = c·z_T + const over ``steps`` sampler steps, the model's predictions being held constant."""
        ...

    def plain(self, text: str) -> str:
        """The text with no token in it that would steer a text encoder, as :func:`plain`."""
        ...

    def tokens_cut(self, prompts: Sequence[str]) -> list[int]:
        """How many tokens at the end of each prompt no text encoder reads; 0 where all of it is read."""
        ...

    def sample(self, prompts: list[str], noise: Tensor, steps: int) -> Tensor:
        """Denoise ``noise`` ``[B, C, H, W]`` float32 ~ N(0, I) in ``steps`` into z_0, same shape, float32, on the CPU.

        z_0 is in the U-Net's space, as the pipeline's ``output_type="latent"`` gives it: the decoder divides it by
        the VAE's scaling factor.
        """
        ...
