"""The generator's VAE: z_0 to pixels. It is loaded next to the scorer, so that images need not travel."""

from __future__ import annotations

import torch
from torch import Tensor

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.adapter import FoundGenerator
from noisesmith.pipeline.generators.loading import check_complete
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.weightless import diffusers_model


class Decoder:
    """A frozen ``AutoencoderKL``.

    Args:
        vae: the model, on any device.
        clamp: keep images within [0, 1]; the ``reference`` readout sees the overshoot, as in the official code.
    """

    def __init__(self, vae: Model, *, clamp: bool = True) -> None:
        self.vae = vae
        self.clamp = clamp

    def __call__(self, latents: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` in [0, 1] of z_0 ``[B, C, h, w]``; differentiable where not clamped."""
        config = self.vae.config
        latents = latents.to(self.vae.device, self.vae.dtype)
        if config.latents_mean is not None and config.latents_std is not None:
            mean = latents.new_tensor(config.latents_mean)[:, None, None]
            std = latents.new_tensor(config.latents_std)[:, None, None]
            latents = latents * std / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor + (config.shift_factor or 0)
        decoded: Tensor = self.vae.decode(latents, return_dict=False)[0]
        images = decoded / 2 + 0.5
        return images.clamp(0, 1) if self.clamp else images


def load_decoder(found: FoundGenerator, device: str, *, clamp: bool = True) -> Decoder:
    """Load the decoder of a generator onto ``device``, with the options of its config.

    Raises:
        UserError: it cannot be loaded.
    """
    from diffusers import AutoencoderKL

    source = found.source
    dtype: torch.dtype = getattr(torch, found.config.dtype)
    with explained(f"generators.model: the vae of {source.id!r} cannot be loaded"):
        if source.file:
            vae: Model = AutoencoderKL.from_single_file(
                str(source.file),
                config=source.location,
                subfolder="vae",
                dtype=dtype,
                local_files_only=source.local,
            )
        else:
            vae = AutoencoderKL.from_pretrained(source.location, subfolder="vae", dtype=dtype, **source.load_options())
        check_complete("vae", vae)
    vae = with_options(vae, found.config)
    return Decoder(vae.to(device).eval().requires_grad_(False), clamp=clamp)


def decoder_without_weights(found: FoundGenerator) -> Decoder:
    """The decoder on the ``meta`` device, with the options of its config, from the VAE's ``config.json`` alone.

    Raises:
        UserError: that file is not here.
    """
    vae = diffusers_model(found.source, "vae", "AutoencoderKL", getattr(torch, found.config.dtype))
    return Decoder(with_options(vae, found.config))


def with_options(vae: Model, config: GeneratorConfig) -> Model:
    """The VAE with the options of a config set. One that overflows in float16 (``force_upcast``) becomes float32."""
    if config.dtype == "float16" and vae.config.force_upcast:
        vae = vae.to(torch.float32)
    if config.vae_slicing:
        vae.enable_slicing()
    if config.vae_tiling:
        vae.enable_tiling()
    return vae
