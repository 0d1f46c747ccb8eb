"""Text-to-image pipelines of ``diffusers`` without an adapter of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from noisesmith.pipeline.config import GeneratorConfig, Resolution
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.adapter import FoundGenerator, FoundPipeline
from noisesmith.pipeline.generators.base import LatentSpec
from noisesmith.pipeline.generators.captured import CapturedAdapter, call_defaults, measured_selection
from noisesmith.pipeline.generators.rehearsal import Rehearsal
from noisesmith.pipeline.generators.samplers import CLASSES, build_scheduler, sampler_gain
from noisesmith.pipeline.generators.weightless import model_parts, part_without_weights
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Options, Tokenizer
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.text.limits import stated_limit

if TYPE_CHECKING:
    from torch import Tensor


class AnyPipeline(CapturedAdapter):
    """The library's pipeline with given latents: its signature says what it takes, a rehearsal which shapes."""

    flow = False  # the scheduler's config says it

    @classmethod
    def call_options(cls, config: GeneratorConfig, rows: int) -> Options:
        taken = call_defaults(cls.pipeline_class, "__call__")
        options = super().call_options(config, rows)
        return {name: value for name, value in options.items() if name in taken}

    @classmethod
    def spec_for(cls, found: FoundPipeline, resolution: Resolution | None) -> LatentSpec:
        if resolution is None:
            return study(found).spec
        width, height = resolution
        return study(replace(found, config=found.config.model_copy(update={"width": width, "height": height}))).spec

    @classmethod
    def own_limits(cls, config: GeneratorConfig) -> dict[str, int]:
        return {}

    @classmethod
    def text_limit(cls, tokenizer: Tokenizer, config: GeneratorConfig) -> int | None:
        """The smaller of what the pipeline's call and the tokenizer's files say."""
        default = call_defaults(cls.pipeline_class, "__call__").get("max_sequence_length")
        stated = [length for length in (config.max_sequence_length or default, stated_limit(tokenizer)) if length]
        return min(stated, default=None)


def makes_images_of_text(class_name: str) -> bool:
    """Whether a class is one of the pipelines that ``diffusers`` makes images of text with."""
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING as PIPELINES

    return any(pipeline.__name__ == class_name for pipeline in PIPELINES.values())


def any_pipeline(source: ModelSource) -> type[AnyPipeline]:
    """The adapter of a pipeline that has none of its own.

    Raises:
        UserError: it takes no latents, or has no VAE that would decode them.
    """
    import diffusers

    pipeline_class = getattr(diffusers, source.class_name)
    index = source.read_json("model_index.json")
    taken = call_defaults(source.class_name, "__call__")
    lacking = None
    if "vae" not in index or not {"transformer", "unet"} & set(index):
        lacking = "is not one denoiser and one VAE"
    elif not {"latents", "prompt"} <= taken.keys() or not hasattr(pipeline_class, "prepare_latents"):
        lacking = "takes no initial noise"
    if lacking is not None:
        raise UserError(
            f"{source.field}: {source.id!r} is a {source.class_name}, which {lacking}, so that its noise cannot be "
            "searched; give a model that denoises latents"
        )
    facts = {
        "pipeline_class": source.class_name,
        "denoiser": "transformer" if "transformer" in index else "unet",
        "negative": "negative_prompt" in taken,
        "no_guidance": 0.0 if guides_at(pipeline_class, 1.0) else 1.0,
        "own_options": ("max_sequence_length",) if "max_sequence_length" in taken else (),
    }
    return type(source.class_name, (AnyPipeline,), facts)


def guides_at(pipeline_class: Any, guidance_scale: float) -> bool:
    """Whether a pipeline guides at a scale, as far as it says it.

    Most take 1 for none. Those that add the scaled difference to the prediction for the prompt take 0 for none.
    """
    says = getattr(pipeline_class, "do_classifier_free_guidance", None)
    if not isinstance(says, property) or says.fget is None:
        return False
    return bool(says.fget(SimpleNamespace(_guidance_scale=guidance_scale)))


@dataclass(frozen=True)
class _Tried:
    """What a pipeline made of noise: of a noise, of the same again and of its negative."""

    noise: Tensor
    first: Tensor
    again: Tensor
    negative: Tensor
    height: int
    width: int


def study(found: FoundPipeline) -> FoundGenerator:
    """Run a pipeline without its weights, to see what latents it takes and what it hands to its VAE.

    Raises:
        UserError: it cannot be run on a prompt alone, it does not start from the latents it is given, it draws noise
            besides, or its images have another size than asked for.
    """
    config, source = found.config, found.source
    _check_scheduler(found)
    what = f"{source.field}: {source.id!r} is a {source.class_name}, which has no adapter of its own here, and"
    with explained(f"{what} cannot be run on a prompt and latents alone", "; give a model of another class"):
        tried = _try_noise(found)
    if torch.equal(tried.first, tried.negative):
        raise UserError(f"{what} does not start from the latents it is given; give a model of another class")
    if not torch.equal(tried.first, tried.again):
        raise UserError(f"{what} draws noise besides its initial noise; choose another scheduler")
    size = (tried.height, tried.width)
    if size != (config.height or tried.height, config.width or tried.width):
        raise UserError(
            f"{what} makes images of {tried.width}×{tried.height} pixels for the width and height that are asked for; "
            "give others"
        )
    spec = LatentSpec(tuple(tried.noise.shape[1:]), *size, tuple(tried.first.shape[1:]))
    facts = {"keeps_float32": tried.noise.dtype == torch.float32}
    return FoundGenerator(config, source, type(source.class_name, (found.family,), facts), spec)


def _try_noise(found: FoundPipeline) -> _Tried:
    from noisesmith.pipeline.models.shapes import without_numbers

    config = found.config
    models = {name: part_without_weights(found, name) for name in model_parts(found)}
    rehearsal = Rehearsal(found, models)
    pipe: Any = rehearsal.pipe
    prepare = pipe.prepare_latents
    prepared: list[Tensor] = []

    def watch(*args: object, **kwargs: object) -> object:
        result = prepare(*args, **kwargs)
        prepared.append(result[0] if isinstance(result, tuple) else result)
        return result

    def run(noise: Tensor | None) -> Tensor:
        return rehearsal.run(["a cat"], config.steps, config.height, config.width, noise)

    pipe.prepare_latents = watch
    run(None)
    own = prepared[0]
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)).to(own.dtype)
    first = run(noise)
    image = without_numbers(partial(models["vae"].decode, first.to("meta"), return_dict=False))[0]
    height, width = image.shape[-2:]
    return _Tried(noise, first, run(noise), run(-noise), height, width)


def check_affine(found: FoundGenerator) -> None:
    """Refuse a pipeline through which no gradient reaches the noise. Those with an adapter of their own are tested.

    Raises:
        UserError: its z_0 does not follow z_T number by number.
    """
    if issubclass(found.family, AnyPipeline):
        models = {name: part_without_weights(found, name, "float32") for name in model_parts(found)}
        measured_selection(Rehearsal(found, models), found, found.spec, found.config.steps)


def check_probe(found: FoundGenerator, stop: int) -> None:
    """Refuse probes after ``stop`` steps where it is not known that they can go on, or where they say nothing of z_T.

    Raises:
        UserError: names the field.
    """
    config, source = found.config, found.source
    if issubclass(found.family, AnyPipeline):
        raise UserError(
            f"optimizer.probe: {source.id!r} is a {source.class_name}, which has no adapter of its own here, so it is "
            "not known whether its sampling can go on from where it has paused; remove it, or use optimizer.preview"
        )
    trained = source.read_json("scheduler/scheduler_config.json")
    scheduler = build_scheduler(config.scheduler, trained, config.timestep_spacing)
    gain = sampler_gain(scheduler, config.steps, stop)
    if not (math.isfinite(gain) and gain > 0):
        raise UserError(
            f"optimizer.probe.at: with {config.scheduler} the image that is predicted after {stop} of {config.steps} "
            f"steps does not follow z_T (gain {gain:g}); raise it"
        )


def _check_scheduler(found: FoundPipeline) -> None:
    """Refuse a sampler that the library does not take for the kind of the model's own."""
    import diffusers

    name = found.source.read_json("scheduler/scheduler_config.json").get("_class_name")
    own = getattr(diffusers, str(name), None)
    chosen = CLASSES[found.config.scheduler]
    if own is None or (chosen != name and chosen not in own._compatibles):
        fitting = [one for one, kind in CLASSES.items() if kind == name or kind in getattr(own, "_compatibles", [])]
        remedy = f"use {', '.join(fitting)}" if fitting else "no sampler here does"
        raise UserError(
            f"generators.scheduler: {found.config.scheduler} does not stand in for the {name} of "
            f"{found.source.id!r}; {remedy}"
        )
