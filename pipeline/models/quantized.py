"""Quantised models: what loads them, and what their weights take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noisesmith.pipeline.lazily import nn, torch
from noisesmith.pipeline.models.libraries import Options
from noisesmith.pipeline.models.locate import ModelSource

if TYPE_CHECKING:
    from torch import Tensor

NF4_BLOCK = 64  # weights that share a scale
FLOAT32 = 4  # bytes


def loader_options(source: ModelSource, dtype: torch.dtype, library: str = "transformers", folder: str = "") -> Options:
    """Options of ``from_pretrained`` that let a library quantise a model as it loads it; none where it is not to.

    Args:
        dtype: type of the weights that are not quantised, and of what is computed.
        library: ``transformers`` or ``diffusers``.
        folder: of a pipeline's part.
    """
    quantization = source.quantization
    if quantization is None or not quantization.covers(folder):
        return {}
    import diffusers
    import transformers

    module = {"transformers": transformers, "diffusers": diffusers}[library]
    if quantization.method == "bitsandbytes-nf4":
        config = module.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    else:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

        kinds = {"torchao-int8": Int8WeightOnlyConfig, "torchao-float8": Float8WeightOnlyConfig}
        # The settings that it would make besides are global: float32 would be multiplied less exactly everywhere.
        config = module.TorchAoConfig(kinds[quantization.method](set_inductor_config=False))
    return {"quantization_config": config}


def mark_quantized(model: Any, source: ModelSource, library: str = "transformers", folder: str = "") -> None:
    """Note at the weights of a model on the ``meta`` device what they take once they are quantised.

    Which layers are, follows from the libraries' own rules: ``transformers`` leaves out the output layer and tied
    weights, both leave out what a class keeps in float32.
    """
    quantization = source.quantization
    if quantization is None or not quantization.covers(folder):
        return
    keeps = _kept_by_transformers(model) if library == "transformers" else _kept_by_diffusers(model)
    whole = quantization.method == "bitsandbytes-nf4"  # it replaces layers, torchao their weights
    for name, module in model.named_modules():
        if whole:
            quantises = type(module) is nn.Linear and not keeps(name)
        else:
            quantises = isinstance(module, nn.Linear) and not keeps(f"{name}.weight")
        if quantises:
            module.weight.quantized_bytes = _quantized_bytes(quantization.method, module.weight)


def stored_bytes(weight: Tensor) -> int:
    """Bytes of a parameter or buffer of a model without weights; see :func:`mark_quantized`."""
    size: int = getattr(weight, "quantized_bytes", weight.nbytes)
    return size


def _kept_by_transformers(model: Any) -> Callable[[str], bool]:
    """Whether ``transformers`` does not quantise a layer, or a weight, of this name."""
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return lambda name: not should_convert_module(name, kept)


def _kept_by_diffusers(model: Any) -> Callable[[str], bool]:
    """Whether ``diffusers`` does not quantise a layer, or a weight, of this name."""
    kept = model._keep_in_fp32_modules or ()
    return lambda name: any(f"{one}." in f"{name}." for one in kept)


def _quantized_bytes(method: str, weight: Tensor) -> int:
    """Bytes of a quantised matrix ``[rows, columns]`` with its scales."""
    rows, count = len(weight), weight.numel()
    if method == "bitsandbytes-nf4":
        codes = 16  # the values that 4 bits stand for
        return math.ceil(count / 2) + FLOAT32 * (math.ceil(count / NF4_BLOCK) + codes)
    zero_points = rows if method == "torchao-int8" else 0
    return count + FLOAT32 * rows + zero_points
