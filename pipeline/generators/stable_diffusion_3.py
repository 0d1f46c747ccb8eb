"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.generators.conditioning import join_rows
from noisesmith.pipeline.models.libraries import Options

T5_TOKENS = 256  # a prompt's length for T5, where the config says nothing


class StableDiffusion3(Adapter):
    """Flow-matching transformer with two CLIP encoders and an optional T5, replaced by zeros when absent."""

    pipeline_class = "StableDiffusion3Pipeline"
    join_text = staticmethod(join_rows)
    denoiser = "transformer"
    flow = True
    multiple = 1
    own_options = ("drop_t5", "max_sequence_length", "skip_layer_guidance")

    @classmethod
    def without(cls, config: GeneratorConfig) -> Options:
        dropped = {"text_encoder_3": None, "tokenizer_3": None} if config.drop_t5 else {}
        return {**super().without(config), **dropped}

    @classmethod
    def call_options(cls, config: GeneratorConfig, rows: int) -> Options:
        options = super().call_options(config, rows)
        options["max_sequence_length"] = config.max_sequence_length or T5_TOKENS
        skipping = config.skip_layer_guidance
        if skipping is not None:
            options["skip_guidance_layers"] = list(skipping.layers)
            options["skip_layer_guidance_scale"] = skipping.scale
            options["skip_layer_guidance_start"] = skipping.start
            options["skip_layer_guidance_stop"] = skipping.stop
        return options

    @classmethod
    def own_limits(cls, config: GeneratorConfig) -> dict[str, int]:
        return {"text_encoder_3": config.max_sequence_length or T5_TOKENS}
