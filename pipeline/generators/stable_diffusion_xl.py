"""Stable Diffusion XL, and what is distilled from it (SDXL-Turbo, Lightning, LCM-LoRA)."""

from __future__ import annotations

from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.generators.conditioning import join_rows


class StableDiffusionXL(Adapter):
    """ε- or v-predicting U-Net with two CLIP encoders, which get the image's size as time ids.

    Without a negative prompt the pipeline guides away from zeros, or from the empty prompt, as the model's
    ``force_zeros_for_empty_prompt`` says.
    """

    pipeline_class = "StableDiffusionXLPipeline"
    join_text = staticmethod(join_rows)
