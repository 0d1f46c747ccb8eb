"""Models of the libraries' own classes without weights, from their JSON files alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from noisesmith.pipeline.models.locate import ModelSource


def hollow_diffuser(source: ModelSource, folder: str, class_name: str, dtype: torch.dtype) -> Any:
    """A ``diffusers`` model of one of the pipeline's folders on the ``meta`` device.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    with torch.device("meta"):
        model = getattr(import_module("diffusers"), class_name).from_config(source.read_json(f"{folder}/config.json"))
    return model.to(dtype).eval().requires_grad_(False)


def hollow_transformer(source: ModelSource, class_name: str, dtype: torch.dtype, folder: str = "") -> Any:
    """A ``transformers`` model on the ``meta`` device, each parameter in the type that loading would give it.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    model_class = getattr(import_module("transformers"), class_name)
    config = model_class.config_class.from_dict(source.read_json(f"{folder}/config.json" if folder else "config.json"))
    with torch.device("meta"):
        model = model_class(config)
    return as_loaded(model, dtype)


def as_loaded(model: Any, dtype: torch.dtype) -> Any:
    """A frozen ``transformers`` model in ``dtype``, but for the layers that its class keeps in float32."""
    plan = model._get_dtype_plan(dtype)
    for name, parameter in model.named_parameters():  # a pattern counts anywhere in the name, as for the library
        kept = next((kind for pattern, kind in plan.items() if pattern in name), dtype)
        parameter.data = parameter.data.to(kept)
    return model.eval().requires_grad_(False)


def parameters(model: Any) -> int:
    """How many parameters a model has, shared ones once."""
    return sum(one.numel() for one in model.parameters())


def weight_bytes(model: Any) -> int:
    """Bytes of a model's parameters and buffers: a table of positions can be a buffer."""
    return sum(one.nbytes for one in [*model.parameters(), *model.buffers()])
