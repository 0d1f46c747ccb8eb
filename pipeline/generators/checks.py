"""Options that do not fit a model, and files it lacks, found before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.family import Family
from noisesmith.pipeline.models.locate import ModelSource, download_command
from noisesmith.pipeline.models.weights import PICKLED, weights_problem

_LIBRARIES = ("diffusers", "transformers")
_NEVER_LOADED = ("safety_checker",)
_OWN = {
    "drop_t5": "has no T5 encoder to do without",
    "max_sequence_length": "reads a fixed number of tokens",
    "skip_layer_guidance": "cannot skip layers",
}


def check_options(config: GeneratorConfig, family: type[Family], source: ModelSource) -> None:
    """Refuse options that this family does not have, or that would change nothing.

    Raises:
        UserError: names the field.
    """
    for name, reason in _OWN.items():
        if getattr(config, name) and name not in family.own_options:
            raise UserError(f"generators.{name}: {source.id!r} is a {source.class_name} and {reason}; remove it")
    if config.attention == "sliced" and family.denoiser != "unet":
        raise UserError("generators.attention: sliced is for U-Nets, and this model is a transformer; use sdpa")
    if config.cpu_offload and config.num_gpus == 0:
        raise UserError(
            "generators.cpu_offload: saves GPU memory, but generators.num_gpus is 0; "
            "remove it, or give each generator a GPU"
        )
    _check_skipping(config, family, source)
    _check_vae(config, source)
    off = family.no_guidance
    if config.guidance_scale > off and not family.uses_guidance(source):
        raise UserError(
            f"generators.guidance_scale: {source.id!r} is distilled to work without guidance, so that "
            f"{config.guidance_scale:g} would change nothing; set it to {off:g}"
        )
    if config.lora:
        _check_merging(family, source)
    if config.negative_prompt:
        if not family.negative:
            raise UserError(
                f"generators.negative_prompt: {source.id!r} has its guidance distilled into it, so it cannot take one; "
                "remove it"
            )
        if config.guidance_scale <= off:
            raise UserError(
                f"generators.negative_prompt: has no effect at guidance_scale {config.guidance_scale:g}, which turns "
                f"guidance off; raise guidance_scale above {off:g} or remove it"
            )
        if source.read_json(f"{family.denoiser}/config.json").get("time_cond_proj_dim"):
            raise UserError(
                f"generators.negative_prompt: {source.id!r} has its guidance distilled into it, so it cannot take one; "
                "remove it"
            )


def _check_skipping(config: GeneratorConfig, family: type[Family], source: ModelSource) -> None:
    skipping = config.skip_layer_guidance
    if skipping is None:
        return
    field = "generators.skip_layer_guidance"
    if config.guidance_scale <= family.no_guidance:
        raise UserError(
            f"{field}: has no effect at guidance_scale {config.guidance_scale:g}, which turns guidance off; raise "
            f"guidance_scale above {family.no_guidance:g} or remove it"
        )
    count = source.read_json(f"{family.denoiser}/config.json").get("num_layers")
    if isinstance(count, int) and max(skipping.layers) >= count:
        raise UserError(f"{field}.layers: {source.id!r} has the layers 0 to {count - 1}; give some of these")
    steps = config.steps
    if not any(steps * skipping.start < step < steps * skipping.stop for step in range(steps)):
        raise UserError(f"{field}: from start to stop there is none of the {steps} steps; raise stop or lower start")


def _check_merging(family: type[Family], source: ModelSource) -> None:
    import diffusers

    if not hasattr(getattr(diffusers, family.pipeline_class), "load_lora_weights"):
        raise UserError(f"generators.lora: the library merges none into a {source.class_name}; remove it")


def _check_vae(config: GeneratorConfig, source: ModelSource) -> None:
    if not config.vae_checkpointing:
        return
    import diffusers

    _, class_name = source.read_json("model_index.json").get("vae") or (None, None)
    vae_class = getattr(diffusers, str(class_name), None)
    if not getattr(vae_class, "_supports_gradient_checkpointing", False):
        raise UserError(
            f"generators.vae_checkpointing: the VAE of {source.id!r} is a {class_name}, whose activations the library "
            "cannot compute again; remove it"
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
    """The library and class of every component that is loaded, by its folder.

    Raises:
        UserError: ``model_index.json`` names a class that is no name.
    """
    dropped = {*_NEVER_LOADED, *family.without(config)}
    found: dict[str, tuple[str, str]] = {}
    for name, entry in source.read_json("model_index.json").items():
        if not names_part(entry) or len(entry) != 2 or entry[0] is None or name in dropped:
            continue
        library, class_name = entry
        if not (isinstance(library, str) and isinstance(class_name, str)):
            raise UserError(
                f"{source.field}: model_index.json of {source.id!r} names no class for {name}; save the model again"
            )
        found[name] = (library, class_name)
    return found


def names_part(entry: Any) -> bool:
    """Whether an entry of ``model_index.json`` names a part, or should; numbers and lists of numbers are settings."""
    return isinstance(entry, list) and not all(isinstance(item, int | float) for item in entry)


def with_weights(parts: Mapping[str, tuple[str, str]], family: type[Family]) -> dict[str, tuple[str, str]]:
    """Those components that are models: the denoiser, the VAE, the text encoders."""
    return {name: part for name, part in parts.items() if name.startswith((family.denoiser, "vae", "text_encoder"))}


def _check_weights(source: ModelSource, folder: Path, part: str) -> None:
    names = sorted(path.name for path in (folder / part).glob("*"))
    tensors = [name for name in names if name.endswith(".safetensors")]
    shard = r"(-\d+-of-\d+)?"
    mark = rf"({shard}\.{source.variant}|\.{source.variant}{shard})" if source.variant else shard
    fitting = [name for name in tensors if re.fullmatch(rf"[a-z_]+{mark}\.safetensors", name)]
    if fitting:
        _refuse_incomplete(source, folder, part, [*fitting, *_indexes(names, "safetensors", source.variant)])
        return
    pickles = [name for name in names if name.endswith(PICKLED)]
    if pickles and not tensors:
        if source.allow_pickle:
            _refuse_incomplete(source, folder, part, [*pickles, *_indexes(names, "bin", source.variant)])
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
    raise UserError(f"{source.field}: {part} of {source.id!r} has no weight file in {folder / part}; {_remedy(source)}")


def _indexes(names: Sequence[str], kind: str, variant: str | None) -> list[str]:
    """The indexes of sharded weights of one kind and variant among file names."""
    ending = f".{kind}.index.{variant}.json" if variant else f".{kind}.index.json"
    return [name for name in names if name.endswith(ending)]


def _refuse_incomplete(source: ModelSource, folder: Path, part: str, names: Sequence[str]) -> None:
    problem = weights_problem(folder / part, names)
    if problem:
        raise UserError(f"{source.field}: {part} of {source.id!r} is incomplete: {problem}; {_remedy(source)}")


def _remedy(source: ModelSource) -> str:
    if source.local:
        return "fetch or save the model again"
    return f"fetch it with `{download_command(source.id, source.revision)}`"
