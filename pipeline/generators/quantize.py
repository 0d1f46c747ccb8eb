"""Which parts of a pipeline are quantised as they are loaded, and whether they can be."""

from __future__ import annotations

from dataclasses import replace

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators.checks import components, with_weights
from noisesmith.pipeline.generators.family import Family
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.quantization import Quantization, check_quantization, refuse_quantized

_FIELD = "generators.quantization"


def quantized(source: ModelSource, family: type[Family], config: GeneratorConfig) -> ModelSource:
    """The source of a pipeline, with what of it is to be quantised.

    Raises:
        UserError: that cannot be done to this model, on this device or next to another option.
    """
    method = config.quantization
    if method is None:
        return source
    check_quantization(method, _FIELD, config.dtype, config.num_gpus)
    _refuse_others(config, source)
    possible = [name for name in with_weights(components(source, family, config), family) if not name.startswith("vae")]
    parts = config.quantized_parts or ()
    for name in parts:
        if name not in possible:
            why = "the VAE is never quantised" if name.startswith("vae") else f"{source.id!r} has no {name}"
            raise UserError(f"generators.quantized_parts: {why}; give some of {', '.join(sorted(possible))}")
    for name in parts or possible:
        refuse_quantized(source.read_json(f"{name}/config.json"), _FIELD, source.id)
    return replace(source, quantization=Quantization(method, parts))


def _refuse_others(config: GeneratorConfig, source: ModelSource) -> None:
    """Refuse options that were never tried together with quantised weights, and weights in a single file."""
    if source.file:
        raise UserError(f"{_FIELD}: weights in a single file cannot be quantised as they are loaded; give a folder")
    for name, why in (
        ("lora", "are added to weights, which cannot be done once these are quantised"),
        ("compile", "is not supported with quantised weights"),
        ("cpu_offload", "is not supported with quantised weights"),
    ):
        if getattr(config, name):
            raise UserError(f"{_FIELD}: generators.{name} {why}; use one of the two")
