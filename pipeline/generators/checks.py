"""Options that do not fit a model, and files it lacks, found before anything is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.family import Family
from noisesmith.pipeline.models.locate import PICKLED, ModelSource, download_command
from noisesmith.pipeline.storage.home import user_path

_LIBRARIES = ("diffusers", "transformers")
_NEVER_LOADED = ("safety_checker",)
_SD3_ONLY = ("drop_t5", "max_sequence_length")


def check_options(config: GeneratorConfig, family: type[Family], source: ModelSource) -> None:
    """Refuse options that this family does not have, or that would change nothing.

    Raises:
        UserError: names the field.
    """
    for name in _SD3_ONLY:
        if getattr(config, name) and name not in family.own_options:
            raise UserError(
                f"generators.{name}: {source.id!r} is a {source.class_name} and has no T5 encoder; remove it"
            )
    if config.attention == "sliced" and family.denoiser != "unet":
        raise UserError("generators.attention: sliced is for U-Nets, and this model is a transformer; use sdpa")
    if config.cpu_offload and config.num_gpus == 0:
        raise UserError(
            "generators.cpu_offload: saves GPU memory, but generators.num_gpus is 0; "
            "remove it, or give each generator a GPU"
        )
    if config.negative_prompt:
        if config.guidance_scale <= 1:
            raise UserError(
                f"generators.negative_prompt: has no effect at guidance_scale {config.guidance_scale:g}, which turns "
                "guidance off; raise guidance_scale above 1 or remove it"
            )
        if source.read_json(f"{family.denoiser}/config.json").get("time_cond_proj_dim"):
            raise UserError(
                f"generators.negative_prompt: {source.id!r} has its guidance distilled into it, so it cannot take one; "
                "remove it"
            )


def check_components(source: ModelSource, family: type[Family], config: GeneratorConfig) -> None:
    """Refuse a model with code of its own, and a stored one whose weight files are missing or pickled.

    Raises:
        UserError: names the component, and the variant or switch that would do.
    """
    parts = components(source, family, config)
    for name, (library, class_name) in parts.items():
        if library not in _LIBRARIES:
            raise UserError(
                f"{source.field}: {name} of {source.id!r} is a {class_name} of {library}, code that came with the "
                "model; give a model of diffusers' and transformers' own classes"
            )
    folder = source.stored_folder()
    if folder is None or source.file:
        return
    for name in with_weights(parts, family):
        _check_weights(source, folder, name)


def components(source: ModelSource, family: type[Family], config: GeneratorConfig) -> dict[str, tuple[str, str]]:
    """The library and class of every component that is loaded, by its folder."""
    dropped = {*_NEVER_LOADED, *family.without(config)}
    return {
        name: (entry[0], entry[1])
        for name, entry in source.read_json("model_index.json").items()
        if isinstance(entry, list) and len(entry) == 2 and entry[0] is not None and name not in dropped
    }


def with_weights(parts: Mapping[str, tuple[str, str]], family: type[Family]) -> dict[str, tuple[str, str]]:
    """Those components that are models: the denoiser, the VAE, the text encoders."""
    return {name: part for name, part in parts.items() if name.startswith((family.denoiser, "vae", "text_encoder"))}


def _check_weights(source: ModelSource, folder: Path, part: str) -> None:
    names = sorted(path.name for path in (folder / part).glob("*"))
    tensors = [name for name in names if name.endswith(".safetensors")]
    shard = r"(-\d+-of-\d+)?"
    mark = rf"({shard}\.{source.variant}|\.{source.variant}{shard})" if source.variant else shard
    if any(re.fullmatch(rf"[a-z_]+{mark}\.safetensors", name) for name in tensors):
        return
    pickles = [name for name in names if name.endswith(PICKLED)]
    if pickles and not tensors:
        if source.allow_pickle:
            return
        raise UserError(
            f"generators.allow_pickle: {part} of {source.id!r} has only pickled weights ({pickles[0]}), which can run "
            "code of their own; convert them to safetensors, or set it to true if you trust them"
        )
    if tensors:
        raise UserError(
            f"generators.variant: {part} of {source.id!r} has no weights "
            f"{f'of variant {source.variant}' if source.variant else 'without one'} but {', '.join(tensors[:3])}; "
            "name the variant that it has, or leave the field out for none"
        )
    remedy = (
        "save the model again" if source.local else f"fetch it with `{download_command(source.id, source.revision)}`"
    )
    raise UserError(f"{source.field}: {part} of {source.id!r} has no weight file in {folder / part}; {remedy}")


def check_lora(config: GeneratorConfig) -> None:
    """Refuse LoRA files that are not there or pickled, and any without peft.

    Raises:
        UserError: names the entry.
    """
    for position, lora in enumerate(config.lora):
        path = user_path(lora.path)
        if path.suffix != ".safetensors":
            raise UserError(f"generators.lora.{position}.path: {lora.path!r} is no .safetensors file; give one")
        if not os.path.isfile(path):
            raise UserError(
                f"generators.lora.{position}.path: no file {lora.path!r}; "
                "fetch it with `hf download REPO FILE --local-dir DIR` and give its path"
            )
    if config.lora and find_spec("peft") is None:
        raise UserError("generators.lora: needs the peft package; install it with `pip install peft`")
