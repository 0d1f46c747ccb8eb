"""Adapters to frozen diffusion models: prompts and z_T in, z_0 out."""

from __future__ import annotations

import os
from dataclasses import replace
from pkgutil import resolve_name

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.adapter import Adapter, FoundGenerator
from noisesmith.pipeline.generators.base import Generator, LatentSpec
from noisesmith.pipeline.generators.checks import check_components, check_options, components, with_weights
from noisesmith.pipeline.generators.decoder import Decoder, load_decoder
from noisesmith.pipeline.generators.lora import check_lora
from noisesmith.pipeline.generators.samplers import check_sampler
from noisesmith.pipeline.generators.spec import read_spec
from noisesmith.pipeline.models.libraries import Tokenizer
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.locate import PICKLED, ModelSource, locate
from noisesmith.pipeline.models.weights import is_pointer
from noisesmith.pipeline.storage.home import user_path
from noisesmith.pipeline.text.limits import TextLimit

__all__ = [
    "Decoder",
    "FoundGenerator",
    "Generator",
    "LatentSpec",
    "find_generator",
    "load_decoder",
    "load_generator",
    "model_parts",
    "read_text_limits",
]

FAMILIES = {
    "StableDiffusionPipeline": "noisesmith.pipeline.generators.stable_diffusion:StableDiffusion",
    "LatentConsistencyModelPipeline": "noisesmith.pipeline.generators.stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": "noisesmith.pipeline.generators.stable_diffusion_xl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "noisesmith.pipeline.generators.stable_diffusion_3:StableDiffusion3",
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
    check_lora(config)
    check_sampler(config, source.read_json("scheduler/scheduler_config.json"), family.flow)
    return FoundGenerator(config, source, family, read_spec(config, source, family))


def load_generator(found: FoundGenerator, device: str) -> Generator:
    """Load a generator onto ``device``.

    Raises:
        UserError: the model cannot be loaded.
    """
    return found.family(found, device)


def model_parts(found: FoundGenerator) -> dict[str, tuple[str, str]]:
    """The library and class of every part that has weights, by its folder: the denoiser, the VAE, the text encoders."""
    return with_weights(components(found.source, found.family, found.config), found.family)


def read_text_limits(found: FoundGenerator) -> list[TextLimit]:
    """What each text encoder of a generator reads of a prompt, by its tokenizer's files.

    Raises:
        UserError: a tokenizer cannot be loaded.
    """
    import transformers

    source = found.source
    where = {"revision": source.revision, "local_files_only": source.local}
    tokenizers: dict[str, Tokenizer] = {}
    for name, (_, class_name) in components(source, found.family, found.config).items():
        if name.startswith("tokenizer"):
            with explained(f"{source.field}: {name} of {source.id!r} cannot be loaded"):
                tokenizer_class = getattr(transformers, class_name)
                tokenizers[name] = tokenizer_class.from_pretrained(source.location, subfolder=name, **where)
    return found.family.text_limits(tokenizers, found.config)


def _family(source: ModelSource) -> type[Adapter]:
    if source.class_name not in FAMILIES:
        raise UserError(
            f"{source.field}: {source.id!r} is a {source.class_name}, which is not supported; "
            f"use one of {', '.join(FAMILIES)}"
        )
    family: type[Adapter] = resolve_name(FAMILIES[source.class_name])
    return family


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
