"""Stable Diffusion XL, and what is distilled from it (SDXL-Turbo, Lightning, LCM-LoRA)."""

from __future__ import annotations

import torch

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.generators.base import LatentSpec
from noisesmith.pipeline.generators.family import blank
from noisesmith.pipeline.models.libraries import Model, Options

TIME_IDS = 6  # original size, crop and target size, two numbers each


class StableDiffusionXL(Adapter):
    """ε- or v-predicting U-Net with two CLIP encoders, which get the image's size as time ids.

    Without a negative prompt the pipeline guides away from zeros, or from the empty prompt, as the model's
    ``force_zeros_for_empty_prompt`` says.
    """

    pipeline_class = "StableDiffusionXLPipeline"

    @classmethod
    def blank_step(cls, denoiser: Model, spec: LatentSpec, batch: int, tokens: int, config: GeneratorConfig) -> Options:
        settings = denoiser.config
        time_ids = torch.ones(batch, TIME_IDS)
        pooled = settings.projection_class_embeddings_input_dim - TIME_IDS * settings.addition_time_embed_dim
        condition = {"text_embeds": blank(denoiser, batch, pooled), "time_ids": time_ids}
        inputs = super().blank_step(denoiser, spec, batch, tokens, config)
        return inputs | {"added_cond_kwargs": condition}
