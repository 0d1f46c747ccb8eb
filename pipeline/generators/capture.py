"""What a pipeline hands to its VAE, taken where it is handed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def handed_to(vae: Any) -> Iterator[list[Tensor]]:
    """Collect the latents that a pipeline has its VAE decode; a blank image answers, and nothing is decoded."""
    from diffusers.models.autoencoders.vae import DecoderOutput

    handed: list[Tensor] = []

    def decode(z: Tensor, return_dict: bool = True, **_: object) -> object:
        handed.append(z)
        blank = z.new_zeros(len(z), 3, 1, 1)
        return DecoderOutput(sample=blank) if return_dict else (blank,)

    vae.decode = decode
    try:
        yield handed
    finally:
        del vae.decode
