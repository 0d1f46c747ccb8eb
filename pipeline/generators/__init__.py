"""Adapters to frozen diffusion models: prompts and z_T in, z_0 out."""

from __future__ import annotations

from pipeline.config import AttendAndExciteConfig, GeneratorConfig, InitNoConfig, OptimizerConfig
from pipeline.errors import UserError
from pipeline.generators.base import Generator, LatentSpec
from pipeline.generators.samplers import check_scheduler
from pipeline.models import ModelSource, locate

__all__ = ["Generator", "LatentSpec", "check_attention", "find_generator", "latent_spec", "load_generator"]

FAMILIES = ("StableDiffusionPipeline",)


def find_generator(config: GeneratorConfig) -> ModelSource:
    """Check the model, its class, the sampler and the image size from the model's JSON files alone.

    Raises:
        UserError: something does not fit; the message names the field.
    """
    source = locate(config.model, config.revision, "generators.model", "model_index.json")
    if source.class_name not in FAMILIES:
        raise UserError(
            f"generators.model: {config.model!r} is a {source.class_name}, which is not supported; "
            f"use one of {', '.join(FAMILIES)}"
        )
    check_scheduler(config.scheduler, source.read_json("scheduler/scheduler_config.json"), source.class_name)
    latent_spec(config, source)
    return source


def latent_spec(config: GeneratorConfig, source: ModelSource) -> LatentSpec:
    """Shape of the latents and the image, in pixels, for a config's height and width."""
    unet, vae = source.read_json("unet/config.json"), source.read_json("vae/config.json")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    sizes = []
    for name in ("height", "width"):
        pixels = getattr(config, name) or unet["sample_size"] * factor
        if pixels % 8 or pixels % factor:
            multiple = max(8, factor)
            raise UserError(
                f"generators.{name}: {pixels} is not a multiple of {multiple}; give one such as {multiple * 8}"
            )
        sizes.append(pixels)
    height, width = sizes
    return LatentSpec((unet["in_channels"], height // factor, width // factor), height, width)


def load_generator(config: GeneratorConfig, device: str) -> Generator:
    """Load the model a config names onto ``device``.

    Raises:
        UserError: the model cannot be loaded.
    """
    from pipeline.generators.stable_diffusion import StableDiffusion

    return StableDiffusion(config, find_generator(config), device)


def check_attention(optimizer: OptimizerConfig, source: ModelSource, spec: LatentSpec) -> None:
    """Refuse an attention method on a model whose denoiser has no such maps, from its JSON files alone.

    Raises:
        UserError: there are none, or none of the size asked for.
    """
    if isinstance(optimizer, InitNoConfig | AttendAndExciteConfig):
        from pipeline.generators.attention import choose_map_size

        choose_map_size(
            optimizer.method, optimizer.attention_size, source.read_json("unet/config.json"), *spec.shape[-2:]
        )
