"""Derives latent shapes and image sizes from a model's JSON files."""

from __future__ import annotations

import math
from typing import TypeGuard

from noisesmith.pipeline.config import GeneratorConfig, Resolution
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.base import LatentSpec
from noisesmith.pipeline.generators.family import Family
from noisesmith.pipeline.models.libraries import Json
from noisesmith.pipeline.models.locate import ModelSource

_SIDES = ("height", "width")


def read_spec(
    config: GeneratorConfig, source: ModelSource, family: type[Family], resolution: Resolution | None = None
) -> LatentSpec:
    """Shapes of the latents and the image's size, in pixels: a given one, or a config's, or the model's own.

    A pixel size must divide by the VAE's factor times the transformer's patch, and by what the library's pipeline
    requires; a transformer's table of positions limits it.

    Raises:
        UserError: the size does not fit, or the model takes more than a noisy image.
    """
    denoiser, vae = source.read_json(f"{family.denoiser}/config.json"), source.read_json("vae/config.json")
    latent_channels = vae.get("latent_channels", vae.get("z_dim"))
    factor = vae_factor(vae)
    patch = family.patch or denoiser.get("patch_size", 1)
    if not (_is_count(latent_channels) and factor is not None and _is_count(patch)):
        raise UserError(
            f"{source.field}: the configs of {source.id!r} have no proper latent_channels, block_out_channels or "
            "patch_size; save the model again"
        )
    cell = factor * patch
    wanted = (config.height, config.width) if resolution is None else (resolution[1], resolution[0])
    labels = [f"generators.{name}: " if resolution is None else f"{name} " for name in _SIDES]
    rows, columns = (
        _pixels(side, label, source, family, denoiser, factor, cell) // factor
        for side, label in zip(wanted, labels, strict=True)
    )
    shape = family.noise_shape(latent_channels, rows, columns)
    features = shape[family.features]
    channels = denoiser.get("in_channels", features)
    if channels != features:
        raise UserError(
            f"{source.field}: {source.id!r} takes {channels} channels where an image has {features}, so "
            "it edits or inpaints; give a model that starts from noise only"
        )
    decoded = family.decoded_shape(latent_channels, rows, columns)
    return LatentSpec(shape, rows * factor, columns * factor, decoded)


def vae_factor(vae: Json) -> int | None:
    """By how much a VAE makes an image smaller, from its ``config.json``; ``None`` where that does not say it."""
    halvings = vae.get("temperal_downsample")  # of a video VAE: one entry per halving
    if isinstance(halvings, list):
        return int(2 ** len(halvings))
    blocks = vae.get("block_out_channels", vae.get("encoder_block_out_channels"))
    if not (isinstance(blocks, list) and blocks):
        return None
    return int(2 ** (len(blocks) - 1))


def _pixels(
    pixels: int | None, label: str, source: ModelSource, family: type[Family], denoiser: Json, factor: int, cell: int
) -> int:
    """One side of the image.

    Args:
        pixels: the model's own where ``None``.
        label: goes before the pixels in messages, and names the side.
    """
    multiple = math.lcm(family.multiple, cell)
    positions = denoiser.get("pos_embed_max_size")
    if pixels is None:
        size = denoiser.get("sample_size", family.sample_size)
        if not _is_count(size):
            raise UserError(f"{label}{source.id!r} names no size of its own; give it in pixels")
        pixels = size * factor
    if pixels % multiple:
        near = max(1, round(pixels / multiple)) * multiple
        raise UserError(f"{label}{pixels} is not a multiple of {multiple}; give one such as {near}")
    if positions is not None and pixels > positions * cell:
        raise UserError(
            f"{label}{pixels} is beyond the {positions * cell} pixels that {source.id!r} has positions for; lower it"
        )
    return pixels


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value > 0
