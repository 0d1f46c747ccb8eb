"""A ``diffusers`` pipeline from a folder, the Hub or a single file, with a config's options applied."""

from __future__ import annotations

from collections.abc import Sequence

from noisesmith.pipeline.config import GeneratorConfig, LoraConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.checks import names_part
from noisesmith.pipeline.generators.family import Family
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Json, Options, Pipeline
from noisesmith.pipeline.models.loading import BrokenModelError, explained
from noisesmith.pipeline.models.locate import ModelSource, fingerprint
from noisesmith.pipeline.models.processors import auto_tokenizer
from noisesmith.pipeline.models.quantized import loader_options
from noisesmith.pipeline.storage.home import user_path


def load_pipeline(config: GeneratorConfig, source: ModelSource, family: type[Family], device: str) -> Pipeline:
    """The family's pipeline with its LoRAs merged, on ``device``, ready to sample.

    Raises:
        UserError: the model or a LoRA cannot be loaded.
    """
    import diffusers

    from noisesmith.pipeline.models.gradients import let_gradients_pass

    loader = getattr(diffusers, family.pipeline_class)
    dtype = getattr(torch, config.dtype)
    index = source.read_json("model_index.json")
    without = family.without(config)
    for name, entry in index.items():
        if isinstance(entry, list) and entry[:1] == [None]:
            without[name] = None  # a part that the model lacks must be named, or the library asks for it
    without |= dict.fromkeys(family.tokenizers_alone)  # the loader takes only the whole processor, or none
    with explained(f"generators.model: {source.id!r} cannot be loaded"):
        tokenizers = {name: auto_tokenizer(source, subfolder=name) for name in family.tokenizers_alone}
        if source.file:
            pipe: Pipeline = loader.from_single_file(
                str(source.file), config=source.location, local_files_only=source.local, dtype=dtype, **without
            )
        else:
            parts = _text_encoders(source, index, without, dtype) | _denoiser_options(source, family, dtype)
            pipe = loader.from_pretrained(source.location, dtype=dtype, **source.load_options(), **without, **parts)
        pipe.register_modules(**tokenizers)
        for name, part in pipe.components.items():
            check_complete(name, part)
            if isinstance(part, torch.nn.Module):
                let_gradients_pass(part)
    _merge_loras(pipe, config.lora)
    pipe.set_progress_bar_config(disable=True)
    denoiser = getattr(pipe, family.denoiser)
    if config.attention == "sliced":
        denoiser.set_attention_slice("auto")
    if config.cpu_offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    if config.compile:
        denoiser.compile()
    return pipe


def _denoiser_options(source: ModelSource, family: type[Family], dtype: torch.dtype) -> Options:
    """Options of the pipeline's loader that quantise its denoiser."""
    from diffusers import PipelineQuantizationConfig

    options = loader_options(source, dtype, "diffusers", family.denoiser)
    if options:
        options["quantization_config"] = PipelineQuantizationConfig(
            quant_mapping={family.denoiser: options["quantization_config"]}
        )
    return options


def _text_encoders(source: ModelSource, index: Json, without: Options, dtype: torch.dtype) -> Options:
    """The text encoders of a stored pipeline. ``transformers`` fills weights that are missing with random numbers.

    Raises:
        BrokenModelError: weights are missing, or the index names no class.
    """
    import transformers

    encoders: Options = {}
    for name, entry in index.items():
        if not name.startswith("text_encoder") or name in without or not names_part(entry):
            continue
        if len(entry) != 2:
            raise BrokenModelError(f"its model_index.json has {entry} as {name}, and not a library and a class")
        library, class_name = entry
        if library != "transformers":
            continue
        source.read_json(f"{name}/config.json")  # refuses one that would take hours to build
        encoder_class = getattr(transformers, str(class_name), None)
        if encoder_class is None:
            raise BrokenModelError(f"transformers has no class {class_name} for its {name}")
        options = source.load_options() | loader_options(source, dtype, folder=name)
        encoder, loaded = encoder_class.from_pretrained(
            source.location, subfolder=name, dtype=dtype, output_loading_info=True, **options
        )
        _refuse_missing(name, sorted(loaded["missing_keys"]))
        encoders[name] = encoder
    return encoders


def check_complete(name: str, part: object) -> None:
    """Refuse a part of a pipeline whose weights are not all there: ``diffusers`` leaves those without numbers.

    Raises:
        BrokenModelError: weights are missing.
    """
    if not isinstance(part, torch.nn.Module):
        return
    _refuse_missing(name, [key for key, weight in part.state_dict().items() if weight.is_meta])


def _refuse_missing(name: str, keys: Sequence[str]) -> None:
    if keys:
        raise BrokenModelError(f"{len(keys)} weights of its {name} are missing, first {keys[0]}")


def lora_revision(config: GeneratorConfig) -> str:
    """The LoRAs' part of a model's revision: ``+lora-``, scale and fingerprint of each."""
    parts = []
    for lora in config.lora:
        path = user_path(lora.path)
        parts.append(f"+lora-{lora.scale:g}-{fingerprint([path], path.parent)}")
    return "".join(parts)


def _merge_loras(pipe: Pipeline, loras: tuple[LoraConfig, ...]) -> None:
    """Add every LoRA to the weights permanently, so that sampling runs the plain model."""
    if not loras:
        return
    names = []
    for position, lora in enumerate(loras):
        name = f"lora{position}"
        path = user_path(lora.path)
        misfit = f"generators.lora.{position}.path: {lora.path!r} does not fit generators.model"
        with explained(misfit):
            pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name, use_safetensors=True)
        if not any(name in present for present in pipe.get_list_adapters().values()):
            raise UserError(f"{misfit} (it names none of the model's layers)")
        names.append(name)
    pipe.set_adapters(names, [lora.scale for lora in loras])
    pipe.fuse_lora(adapter_names=names)
    pipe.unload_lora_weights()
