"""z_0 → pixels: the generator's VAE, kept beside the scorer so that images need not travel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.models.locate import ModelSource


class Decoder:
    """``AutoencoderKL`` of the generator's model, frozen.

    A VAE that says it overflows in float16 (``force_upcast``) works in float32 there.

    Args:
        clamp: keep images within [0, 1]; the ``reference`` readout sees the overshoot, as in the official code.
    """

    def __init__(
        self,
        source: ModelSource,
        dtype: torch.dtype,
        device: str,
        *,
        slicing: bool = False,
        tiling: bool = False,
        clamp: bool = True,
    ) -> None:
        from diffusers import AutoencoderKL

        try:
            if source.file:
                vae = AutoencoderKL.from_single_file(
                    str(source.file),
                    config=source.location,
                    subfolder="vae",
                    dtype=dtype,
                    local_files_only=source.local,
                )
            else:
                vae = AutoencoderKL.from_pretrained(
                    source.location, subfolder="vae", dtype=dtype, **source.load_options()
                )
        except Exception as error:  # as in the generators' loaders
            raise UserError(f"generators.model: the vae of {source.id!r} cannot be loaded ({reason(error)})") from error
        vae = with_options(vae, dtype, slicing=slicing, tiling=tiling)
        self.vae: Any = vae.to(device).eval().requires_grad_(False)
        self.clamp = clamp

    def __call__(self, latents: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` in [0, 1] of z_0 ``[B, C, h, w]``; differentiable where not clamped."""
        config = self.vae.config
        latents = latents.to(self.vae.device, self.vae.dtype)
        if config.latents_mean is not None and config.latents_std is not None:
            mean, std = (
                latents.new_tensor(value)[:, None, None] for value in (config.latents_mean, config.latents_std)
            )
            latents = latents * std / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor + (config.shift_factor or 0)
        decoded = self.vae.decode(latents, return_dict=False)[0]
        images = decoded / 2 + 0.5
        return images.clamp(0, 1) if self.clamp else images


def with_options(vae: Any, dtype: torch.dtype, *, slicing: bool, tiling: bool) -> Any:
    """The VAE in the type it can work in, with the options set."""
    if dtype == torch.float16 and vae.config.force_upcast:
        vae = vae.to(torch.float32)
    if slicing:
        vae.enable_slicing()
    if tiling:
        vae.enable_tiling()
    return vae


def load_decoder(config: GeneratorConfig, source: ModelSource, device: str, *, clamp: bool = True) -> Decoder:
    """The decoder of the generator's model ``source``, as its config wants it.

    Raises:
        UserError: it cannot be loaded.
    """
    dtype = getattr(torch, config.dtype)
    return Decoder(source, dtype, device, slicing=config.vae_slicing, tiling=config.vae_tiling, clamp=clamp)
