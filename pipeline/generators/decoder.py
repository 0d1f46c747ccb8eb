"""The generator's VAE: z_0 to pixels. It is loaded next to the scorer, so that images need not travel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.adapter import FoundGenerator
from noisesmith.pipeline.generators.checks import components
from noisesmith.pipeline.generators.loading import check_complete
from noisesmith.pipeline.lazily import nn, torch
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.weightless import diffusers_model

if TYPE_CHECKING:
    from torch import Tensor

VIDEO = 5  # axes of a video VAE's images: one frame is decoded


class Decoder:
    """A frozen VAE.

    Args:
        vae: the model, on any device.
        scaled: z_0 is the sampler's result, which the VAE's config scales; otherwise the VAE takes it as it is.
        clamp: keep images within [0, 1]; the ``reference`` readout sees the overshoot, as in the official code.
    """

    def __init__(self, vae: Model, *, scaled: bool = True, clamp: bool = True) -> None:
        self.vae = vae
        self.scaled = scaled
        self.clamp = clamp

    def __call__(self, latents: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` in [0, 1] of z_0 ``[B, …]``; differentiable where not clamped."""
        latents = latents.to(self.vae.device, self.vae.dtype)
        if self.scaled:
            latents = self._unscaled(latents)
        decoded: Tensor = self.vae.decode(latents, return_dict=False)[0]
        if decoded.ndim == VIDEO:
            decoded = decoded[:, :, 0]
        images = decoded / 2 + 0.5
        return images.clamp(0, 1) if self.clamp else images

    def _unscaled(self, latents: Tensor) -> Tensor:
        config = self.vae.config
        statistics = latent_statistics(self.vae, latents)
        if statistics is not None:
            mean, std = statistics
            latents = latents * std / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor + (config.get("shift_factor") or 0)
        return latents


def latent_statistics(vae: Model, latents: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation ``[C, 1, 1]`` of a VAE's latents; ``None`` where its config does not have both."""
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is None or std is None:
        return None
    return latents.new_tensor(mean)[:, None, None], latents.new_tensor(std)[:, None, None]


def load_decoder(found: FoundGenerator, device: str, *, clamp: bool = True) -> Decoder:
    """Load the decoder of a generator onto ``device``, with the options of its config.

    Raises:
        UserError: it cannot be loaded.
    """
    import diffusers

    source = found.source
    vae_class = getattr(diffusers, _vae_class(found))
    dtype: torch.dtype = getattr(torch, found.config.dtype)
    with explained(f"generators.model: the vae of {source.id!r} cannot be loaded"):
        if source.file:
            vae: Model = vae_class.from_single_file(
                str(source.file),
                config=source.location,
                subfolder="vae",
                dtype=dtype,
                local_files_only=source.local,
            )
        else:
            vae = vae_class.from_pretrained(source.location, subfolder="vae", dtype=dtype, **source.load_options())
        check_complete("vae", vae)
    vae = with_options(vae, found.config)
    return Decoder(vae.to(device).eval().requires_grad_(False), scaled=not found.family.captured, clamp=clamp)


def decoder_without_weights(found: FoundGenerator) -> Decoder:
    """The decoder on the ``meta`` device, with the options of its config, from the VAE's ``config.json`` alone.

    Raises:
        UserError: that file is not here.
    """
    vae = diffusers_model(found.source, "vae", _vae_class(found), getattr(torch, found.config.dtype))
    vae = with_options(vae, found.config)
    if found.config.vae_checkpointing:
        vae.enable_gradient_checkpointing(_checkpoint)
    return Decoder(vae, scaled=not found.family.captured)


def _checkpoint(module: nn.Module, *inputs: object) -> object:
    """A block without weights whose activations are computed again for the gradient, by the same attention.

    While torch computes gradients, it leaves a mode that was entered around both passes.
    """

    from torch.utils.checkpoint import checkpoint

    from noisesmith.pipeline.models.shapes import FusedAttention

    def run(*given: object) -> object:
        with FusedAttention():
            return module(*given)

    return checkpoint(run, *inputs, use_reentrant=False)


def _vae_class(found: FoundGenerator) -> str:
    return components(found.source, found.family, found.config)["vae"][1]


def with_options(vae: Model, config: GeneratorConfig) -> Model:
    """The VAE with the options of a config set. One that overflows in float16 (``force_upcast``) becomes float32."""
    if config.dtype == "float16" and getattr(vae.config, "force_upcast", False):
        vae = vae.to(torch.float32)
    if config.vae_slicing:
        vae.enable_slicing()
    if config.vae_tiling:
        vae.enable_tiling()
    if config.vae_checkpointing:
        vae.enable_gradient_checkpointing()
    return vae
