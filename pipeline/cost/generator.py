"""A generator's side: the pipeline's models without weights, and what a batch of images takes of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.cost.measure import Cost, measure
from noisesmith.pipeline.generators import FoundGenerator
from noisesmith.pipeline.generators.rehearsal import Rehearsal
from noisesmith.pipeline.generators.stable_diffusion_3 import T5_TOKENS
from noisesmith.pipeline.models.libraries import Model

PROMPT = " ".join(["word"] * 64)  # what a prompt counts as, where its length counts
CLIP_TOKENS = 77  # where there is no encoder to say it


def generate_cost(found: FoundGenerator, parts: Mapping[str, Model], batch: int, prompt: str = PROMPT) -> Cost:
    """The cost of a batch of images: each text encoder's pass, and the denoiser's for every step.

    Args:
        parts: models of :func:`part_without_weights` by folder, the denoiser among them. They are used up.
        prompt: that of every row, for a pipeline that does not pad prompts to a fixed length.

    Raises:
        NotImplementedError, RuntimeError: a model cannot run without numbers.
        UserError: a tokenizer cannot be loaded.
    """
    if found.family.captured:
        return _rehearsed_cost(found, parts, [prompt] * batch)
    return _composed_cost(found, parts, batch)


def _rehearsed_cost(found: FoundGenerator, parts: Mapping[str, Model], prompts: list[str]) -> Cost:
    """The cost of every pass that the pipeline itself makes of its models."""
    rehearsal = Rehearsal(found, parts)
    rehearsal.follow(prompts, found.config.steps, found.spec, torch.zeros(len(prompts), *found.spec.shape))
    flops = 0
    peak_bytes = 0
    with torch.no_grad():
        for one in rehearsal.passes.values():
            cost = measure(one.work)
            flops += one.count * cost.flops
            peak_bytes = max(peak_bytes, cost.peak_bytes)
    return Cost(flops, peak_bytes)


def _composed_cost(found: FoundGenerator, parts: Mapping[str, Model], batch: int) -> Cost:
    """The cost of the passes that the Stable Diffusion families make.

    With guidance each pass is made for the prompt and for the negative prompt: the denoiser's in one doubled batch.
    """
    config = found.config
    denoiser = parts[found.family.denoiser]
    is_distilled = getattr(denoiser.config, "time_cond_proj_dim", None) is not None
    passes = 2 if config.guidance_scale > 1 and not is_distilled else 1
    encoders = [part for name, part in parts.items() if name.startswith("text_encoder")]
    tokens = _text_length(encoders[0], config) if encoders else CLIP_TOKENS
    inputs = found.family.blank_step(denoiser, found.spec, batch * passes, tokens, config)
    step = measure(partial(_run, denoiser, inputs))
    flops = config.steps * step.flops
    peak_bytes = step.peak_bytes
    for encoder in encoders:
        ids = torch.ones(batch, _text_length(encoder, config), dtype=torch.long)
        text = measure(partial(_run, encoder, {"input_ids": ids, "output_hidden_states": True}))
        flops += passes * text.flops
        peak_bytes = max(peak_bytes, text.peak_bytes)
    return Cost(flops, peak_bytes)


@torch.no_grad()
def _run(model: Model, inputs: Mapping[str, object]) -> None:
    model(**inputs)


def _text_length(encoder: Model, config: GeneratorConfig) -> int:
    """Tokens that a prompt is padded to: CLIP's positions, or what T5 is given."""
    positions: int | None = getattr(encoder.config, "max_position_embeddings", None)
    return positions or config.max_sequence_length or T5_TOKENS
