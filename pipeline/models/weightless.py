"""Models of the libraries' own classes without weights, on the ``meta`` device, from their JSON files alone."""

from __future__ import annotations

from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Model, Settings
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.models.quantized import mark_quantized


def diffusers_model(source: ModelSource, folder: str, class_name: str, dtype: torch.dtype) -> Model:
    """The ``diffusers`` model of one of a pipeline's folders.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    import diffusers

    model_class = getattr(diffusers, class_name)
    with torch.device("meta"):
        model = model_class.from_config(source.read_json(f"{folder}/config.json"))
    kept = []  # a table that no weight file holds stays as its class makes it
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            kept.append((module, name, getattr(module, name)))
    frozen: Model = model.to(dtype).eval().requires_grad_(False)
    for module, name, table in kept:
        setattr(module, name, table)
    in_float32 = set(model_class._keep_in_fp32_modules or ())  # whatever type the others are loaded in
    for name, parameter in frozen.named_parameters():
        if in_float32.intersection(name.split(".")):
            parameter.data = parameter.data.float()
    mark_quantized(frozen, source, "diffusers", folder)
    return frozen


def transformers_model(source: ModelSource, class_name: str, dtype: torch.dtype, folder: str = "") -> Model:
    """A ``transformers`` model, each parameter in the type that loading would give it.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    import transformers

    config = transformers_config(source, class_name, folder)
    standard = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # as the library loads a model: buffers that name no type follow it
    try:
        with torch.device("meta"):
            model = getattr(transformers, class_name)(config)
    finally:
        torch.set_default_dtype(standard)
    mark_quantized(model, source, folder=folder)
    return as_loaded(model, dtype)


def transformers_config(source: ModelSource, class_name: str, folder: str = "") -> Settings:
    """The config of a ``transformers`` model, with its class's defaults for what the file lacks.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    import transformers

    filename = f"{folder}/config.json" if folder else "config.json"
    config: Settings = getattr(transformers, class_name).config_class.from_dict(source.read_json(filename))
    return config


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
