"""Stable Diffusion 1.x and 2.x, and what is distilled from them (SD-Turbo, LCM)."""

from __future__ import annotations

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.generators.conditioning import join_rows
from noisesmith.pipeline.models.libraries import Options


class StableDiffusion(Adapter):
    """ε- or v-predicting U-Net with one CLIP encoder.

    A latent consistency model has the same parts and one more input, which the pipeline computes.
    """

    pipeline_class = "StableDiffusionPipeline"
    join_text = staticmethod(join_rows)

    @classmethod
    def without(cls, config: GeneratorConfig) -> Options:
        return {**super().without(config), "safety_checker": None, "requires_safety_checker": False}
