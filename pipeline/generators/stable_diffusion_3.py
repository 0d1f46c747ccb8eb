"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from typing import Any

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.adapter import Adapter


class StableDiffusion3(Adapter):
    """Flow-matching transformer with two CLIP encoders and an optional T5, whose place is zeros when it is absent."""

    pipeline_class = "StableDiffusion3Pipeline"
    denoiser = "transformer"
    flow = True
    multiple = 1
    own_options = ("drop_t5", "max_sequence_length")

    @classmethod
    def without(cls, config: GeneratorConfig) -> dict[str, Any]:
        return {"text_encoder_3": None, "tokenizer_3": None} if config.drop_t5 else {}

    def _call_options(self) -> dict[str, Any]:
        return {"max_sequence_length": self.config.max_sequence_length or 256}
