"""Derives latent shapes and image sizes from a model's JSON files."""

from __future__ import annotations

import math
from typing import TypeGuard

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.base import LatentSpec
from noisesmith.pipeline.generators.family import Family
from noisesmith.pipeline.models.locate import ModelSource


def read_spec(config: GeneratorConfig, source: ModelSource, family: type[Family]) -> LatentSpec:
    """Shape of the latents and the image, in pixels, for a config's height and width or the model's own.

    A pixel size must divide by the VAE's factor times the transformer's patch, and by what the library's pipeline
    requires; a transformer's table of positions limits it.

    Raises:
        UserError: the size does not fit, or the model takes more than a noisy image.
    """
    denoiser, vae = source.read_json(f"{family.denoiser}/config.json"), source.read_json("vae/config.json")
    latent_channels, blocks = vae.get("latent_channels"), vae.get("block_out_channels")
    patch = denoiser.get("patch_size", 1)
    if not (_is_count(latent_channels) and isinstance(blocks, list) and blocks and _is_count(patch)):
        raise UserError(
            f"{source.field}: the configs of {source.id!r} have no proper latent_channels, block_out_channels or "
            "patch_size; save the model again"
        )
    channels = denoiser.get("in_channels", latent_channels)
    if channels != latent_channels:
        raise UserError(
            f"{source.field}: {source.id!r} takes {channels} channels where an image has {latent_channels}, so "
            "it edits or inpaints; give a model that starts from noise only"
        )
    factor = 2 ** (len(blocks) - 1)
    cell = factor * patch
    multiple = math.lcm(family.multiple, cell)
    positions = denoiser.get("pos_embed_max_size")
    sizes = []
    for name in ("height", "width"):
        pixels = getattr(config, name)
        if pixels is None:
            if not _is_count(denoiser.get("sample_size")):
                raise UserError(f"generators.{name}: {source.id!r} names no size of its own; give {name} in pixels")
            pixels = denoiser["sample_size"] * factor
        if pixels % multiple:
            raise UserError(
                f"generators.{name}: {pixels} is not a multiple of {multiple}; give one such as {multiple * 8}"
            )
        if positions is not None and pixels > positions * cell:
            raise UserError(
                f"generators.{name}: {pixels} is beyond the {positions * cell} pixels that {source.id!r} has positions "
                "for; lower it"
            )
        sizes.append(pixels)
    height, width = sizes
    return LatentSpec((latent_channels, height // factor, width // factor), height, width)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value > 0
