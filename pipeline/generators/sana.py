"""SANA."""

from __future__ import annotations

from noisesmith.pipeline.generators.captured import CapturedAdapter, call_defaults
from noisesmith.pipeline.models.libraries import Tokenizer


class Sana(CapturedAdapter):
    """Linear transformer over the latents of a VAE that makes an image 32 times smaller.

    Gemma reads the prompt after an instruction of the pipeline.
    """

    pipeline_class = "SanaPipeline"
    keeps_float32 = True
    multiple = 32

    @classmethod
    def prefix(cls, tokenizer: Tokenizer) -> tuple[str, int]:
        instruction = "\n".join(call_defaults(cls.pipeline_class, "__call__")["complex_human_instruction"])
        return instruction, len(tokenizer(instruction).input_ids) - 2  # as the pipeline counts it
