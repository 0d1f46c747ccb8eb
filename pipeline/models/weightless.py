"""Models of the libraries' own classes without weights, on the ``meta`` device, from their JSON files alone."""

from __future__ import annotations

import torch

from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.locate import ModelSource


def diffusers_model(source: ModelSource, folder: str, class_name: str, dtype: torch.dtype) -> Model:
    """The ``diffusers`` model of one of a pipeline's folders.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    import diffusers

    model_class = getattr(diffusers, class_name)
    with torch.device("meta"):
        model = model_class.from_config(source.read_json(f"{folder}/config.json"))
    frozen: Model = model.to(dtype).eval().requires_grad_(False)
    return frozen


def transformers_model(source: ModelSource, class_name: str, dtype: torch.dtype, folder: str = "") -> Model:
    """A ``transformers`` model, each parameter in the type that loading would give it.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    import transformers

    model_class = getattr(transformers, class_name)
    filename = f"{folder}/config.json" if folder else "config.json"
    config = model_class.config_class.from_dict(source.read_json(filename))
    with torch.device("meta"):
        model = model_class(config)
    return as_loaded(model, dtype)


def as_loaded(model: Model, dtype: torch.dtype) -> Model:
    """A frozen ``transformers`` model in ``dtype``, except for the layers that its class keeps in float32."""
    kept_types = model._get_dtype_plan(dtype)
    for name, parameter in model.named_parameters():
        kind = dtype
        for pattern, kept in kept_types.items():  # a pattern may stand anywhere in the name, as for the library
            if pattern in name:
                kind = kept
                break
        parameter.data = parameter.data.to(kind)
    frozen: Model = model.eval().requires_grad_(False)
    return frozen
