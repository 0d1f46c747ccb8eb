"""A generator's side: the pipeline's models without weights, and what a batch of images takes of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.cost.hollow import hollow_diffuser, hollow_transformer
from noisesmith.pipeline.cost.measure import Cost, measure
from noisesmith.pipeline.generators import FoundGenerator, LatentSpec

CLIP_TOKENS = 77  # where there is no encoder to say it
T5_TOKENS = 256  # of Stable Diffusion 3, where the config has no max_sequence_length


def hollow_part(found: FoundGenerator, folder: str, library: str, class_name: str) -> Any:
    """One of the pipeline's models on the ``meta`` device, with the options that sampling gives it.

    Raises:
        UserError: its ``config.json`` is not here.
    """
    config, source = found.config, found.source
    dtype = getattr(torch, config.dtype)
    if library == "transformers":
        return hollow_transformer(source, class_name, dtype, folder)
    model = hollow_diffuser(source, folder, class_name, dtype)
    if config.attention == "sliced" and folder == "unet":
        model.set_attention_slice("auto")
    return model


def generate_cost(config: GeneratorConfig, parts: dict[str, Any], spec: LatentSpec, batch: int) -> Cost:
    """The cost of a batch of images: each text encoder's pass, and the denoiser's for every step.

    With guidance each pass is made for the prompt and for the negative prompt: the denoiser's in one doubled batch.

    Raises:
        KeyError: there is no denoiser.
        NotImplementedError, RuntimeError: a model cannot run without numbers.
    """
    denoiser = parts["transformer"] if "transformer" in parts else parts["unet"]
    distilled = getattr(denoiser.config, "time_cond_proj_dim", None) is not None
    passes = 2 if config.guidance_scale > 1 and not distilled else 1
    encoders = [part for name, part in parts.items() if name.startswith("text_encoder")]
    clip = next((_text_length(encoder, config) for encoder in encoders), CLIP_TOKENS)
    step = measure(partial(_step, denoiser, spec, batch * passes, config, clip))
    texts = [measure(partial(_encode, encoder, batch, config)) for encoder in encoders]
    return Cost(
        flops=config.steps * step.flops + passes * sum(text.flops for text in texts),
        peak_bytes=max(one.peak_bytes for one in (step, *texts)),
    )


@torch.no_grad()
def _step(denoiser: Any, spec: LatentSpec, batch: int, config: GeneratorConfig, tokens: int) -> None:
    def blank(*shape: int) -> Tensor:
        return torch.empty(batch, *shape, dtype=denoiser.dtype, device="meta")

    settings, latents, time = denoiser.config, blank(*spec.shape), torch.ones(batch)
    if "joint_attention_dim" in settings:
        tokens += config.max_sequence_length or T5_TOKENS
        text, pooled = blank(tokens, settings.joint_attention_dim), blank(settings.pooled_projection_dim)
        denoiser(latents, encoder_hidden_states=text, pooled_projections=pooled, timestep=time)
        return
    more: dict[str, Any] = {}
    if settings.addition_embed_type == "text_time":
        pooled = settings.projection_class_embeddings_input_dim - 6 * settings.addition_time_embed_dim
        more["added_cond_kwargs"] = {"text_embeds": blank(pooled), "time_ids": torch.ones(batch, 6)}
    if settings.time_cond_proj_dim is not None:
        more["timestep_cond"] = blank(settings.time_cond_proj_dim)
    denoiser(latents, time, blank(tokens, settings.cross_attention_dim), **more)


@torch.no_grad()
def _encode(encoder: Any, batch: int, config: GeneratorConfig) -> None:
    encoder(torch.ones(batch, _text_length(encoder, config), dtype=torch.long), output_hidden_states=True)


def _text_length(encoder: Any, config: GeneratorConfig) -> int:
    """Tokens that a prompt is padded to: CLIP's positions, or what T5 is given."""
    return getattr(encoder.config, "max_position_embeddings", None) or config.max_sequence_length or T5_TOKENS
