"""A generator's parts from its small files: models without weights, tokenizers."""

from __future__ import annotations

from noisesmith.pipeline.generators.adapter import FoundPipeline
from noisesmith.pipeline.generators.checks import components, with_weights
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Model, Tokenizer
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.weightless import diffusers_model, transformers_model


def model_parts(found: FoundPipeline) -> dict[str, tuple[str, str]]:
    """The library and class of every part that has weights, by its folder: the denoiser, the VAE, the text encoders."""
    return with_weights(components(found.source, found.family, found.config), found.family)


def part_without_weights(found: FoundPipeline, folder: str, dtype: str | None = None) -> Model:
    """One of the pipeline's models on the ``meta`` device, with the options that sampling gives it.

    Args:
        dtype: the config's when ``None``.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    library, class_name = model_parts(found)[folder]
    kind = getattr(torch, dtype or found.config.dtype)
    if library == "transformers":
        return transformers_model(found.source, class_name, kind, folder)
    model = diffusers_model(found.source, folder, class_name, kind)
    if found.config.attention == "sliced" and folder == found.family.denoiser:
        model.set_attention_slice("auto")
    return model


def load_tokenizers(found: FoundPipeline) -> dict[str, Tokenizer]:
    """The tokenizers by the pipeline's names for them.

    Raises:
        UserError: one cannot be loaded.
    """
    import transformers

    source = found.source
    where = {"revision": source.revision, "local_files_only": source.local}
    tokenizers: dict[str, Tokenizer] = {}
    for name, (_, class_name) in components(source, found.family, found.config).items():
        if name.startswith("tokenizer"):
            with explained(f"{source.field}: {name} of {source.id!r} cannot be loaded"):
                alone = name in found.family.tokenizers_alone
                tokenizer_class = getattr(transformers, "AutoTokenizer" if alone else class_name)
                tokenizers[name] = tokenizer_class.from_pretrained(source.location, subfolder=name, **where)
    return tokenizers
