"""Adapters to frozen diffusion models: prompts and z_T in, z_0 out."""

from __future__ import annotations

import os
from dataclasses import replace
from pkgutil import resolve_name

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.adapter import Adapter, FoundGenerator, FoundPipeline
from noisesmith.pipeline.generators.any_pipeline import (
    AnyPipeline,
    any_pipeline,
    check_affine,
    check_probe,
    makes_images_of_text,
    study,
)
from noisesmith.pipeline.generators.base import Generator, LatentSpec
from noisesmith.pipeline.generators.checks import check_components, check_options
from noisesmith.pipeline.generators.decoder import Decoder, load_decoder
from noisesmith.pipeline.generators.lora import check_lora
from noisesmith.pipeline.generators.quantize import quantized
from noisesmith.pipeline.generators.samplers import check_sampler
from noisesmith.pipeline.generators.weightless import load_tokenizers, model_parts, part_without_weights
from noisesmith.pipeline.models.locate import ModelSource, locate
from noisesmith.pipeline.models.weights import PICKLED, is_pointer
from noisesmith.pipeline.storage.home import user_path
from noisesmith.pipeline.text.limits import TextLimit

__all__ = [
    "Decoder",
    "FoundGenerator",
    "Generator",
    "LatentSpec",
    "check_affine",
    "check_probe",
    "find_generator",
    "load_decoder",
    "load_generator",
    "model_parts",
    "part_without_weights",
    "read_text_limits",
]

FAMILIES = {
    "StableDiffusionPipeline": "noisesmith.pipeline.generators.stable_diffusion:StableDiffusion",
    "LatentConsistencyModelPipeline": "noisesmith.pipeline.generators.stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": "noisesmith.pipeline.generators.stable_diffusion_xl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "noisesmith.pipeline.generators.stable_diffusion_3:StableDiffusion3",
    "FluxPipeline": "noisesmith.pipeline.generators.flux:Flux",
    "Flux2Pipeline": "noisesmith.pipeline.generators.flux:Flux2",
    "Flux2KleinPipeline": "noisesmith.pipeline.generators.flux:Flux2Klein",
    "ChromaPipeline": "noisesmith.pipeline.generators.flux:Chroma",
    "Lumina2Pipeline": "noisesmith.pipeline.generators.lumina2:Lumina2",
    "ZImagePipeline": "noisesmith.pipeline.generators.z_image:ZImage",
    "QwenImagePipeline": "noisesmith.pipeline.generators.qwen_image:QwenImage",
    "SanaPipeline": "noisesmith.pipeline.generators.sana:Sana",
    "SanaSprintPipeline": "noisesmith.pipeline.generators.sana:SanaSprint",
    "PixArtSigmaPipeline": "noisesmith.pipeline.generators.pixart:PixArtSigma",
}


def find_generator(config: GeneratorConfig) -> FoundGenerator:
    """Find a model, and check its class, its files, the sampler, the image size and every option; load none of it.

    Raises:
        UserError: something does not fit; the message names the field.
    """
    source = _locate(config)
    family = _family(source)
    check_options(config, family, source)
    check_components(source, family, config)
    source = quantized(source, family, config)
    check_lora(config)
    check_sampler(config, source.read_json("scheduler/scheduler_config.json"), family.flow)
    found = FoundPipeline(config, source, family)
    if issubclass(family, AnyPipeline):
        return study(found)
    return FoundGenerator(config, source, family, family.spec_for(found, None))


def load_generator(found: FoundGenerator, device: str) -> Generator:
    """Load a generator onto ``device``.

    Raises:
        UserError: the model cannot be loaded.
    """
    return found.family(found, device)


def read_text_limits(found: FoundGenerator) -> list[TextLimit]:
    """What each text encoder of a generator reads of a prompt, by its tokenizer's files.

    Raises:
        UserError: a tokenizer cannot be loaded.
    """
    tokenizers = {name: getattr(part, "tokenizer", part) for name, part in load_tokenizers(found).items()}
    return found.family.text_limits(tokenizers, found.config)


def _family(source: ModelSource) -> type[Adapter]:
    if source.class_name in FAMILIES:
        family: type[Adapter] = resolve_name(FAMILIES[source.class_name])
        return family
    if makes_images_of_text(source.class_name):
        return any_pipeline(source)
    raise UserError(
        f"{source.field}: {source.id!r} is a {source.class_name}, which is not supported; "
        f"use one of {', '.join(FAMILIES)}, or another of diffusers' text-to-image pipelines"
    )


def _locate(config: GeneratorConfig) -> ModelSource:
    file = user_path(config.model)
    if not os.path.isfile(file):
        if config.config is not None:
            raise UserError(
                f"generators.config: only a single-file model needs one, but {config.model!r} is none; remove it"
            )
        found = locate(config.model, config.revision, "generators.model", "model_index.json")
        return replace(found, variant=config.variant, allow_pickle=config.allow_pickle)
    if file.suffix in PICKLED and not config.allow_pickle:
        raise UserError(
            f"generators.model: {config.model!r} is a pickle, which can run code of its own; "
            "give a .safetensors file, or set generators.allow_pickle: true if you trust it"
        )
    if file.suffix not in {".safetensors", *PICKLED}:
        raise UserError(f"generators.model: {config.model!r} is no weights file; give a .safetensors file or a folder")
    if is_pointer(file):
        raise UserError(
            f"generators.model: {config.model!r} is a Git LFS pointer and no weights; fetch them with `git lfs pull`"
        )
    if config.config is None:
        raise UserError(
            f"generators.config: {config.model!r} has only weights; give the folder or Hub id whose model_index.json "
            "and configs fit it, such as stabilityai/stable-diffusion-xl-base-1.0"
        )
    if config.variant is not None:
        raise UserError("generators.variant: a single file has no variants; remove it")
    base = locate(config.config, config.revision, "generators.config", "model_index.json")
    return replace(base, id=config.model, file=file, allow_pickle=config.allow_pickle)
