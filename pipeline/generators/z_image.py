"""Z-Image and Z-Image-Turbo."""

from __future__ import annotations

from noisesmith.pipeline.generators.captured import CapturedAdapter, turn_before
from noisesmith.pipeline.generators.conditioning import join_rows
from noisesmith.pipeline.models.libraries import Tokenizer


class ZImage(CapturedAdapter):
    """Single-stream transformer that reads a prompt as a chat turn of Qwen.

    Its pipeline adds ``guidance_scale`` times the difference to the prediction for the prompt, so that 0 is no guidance
    and 1 is what other families call 2.
    """

    pipeline_class = "ZImagePipeline"
    join_text = staticmethod(join_rows)
    keeps_float32 = True
    no_guidance = 0.0
    patch = 2
    sample_size = 128

    @classmethod
    def prefix(cls, tokenizer: Tokenizer) -> tuple[str, int]:
        return turn_before(tokenizer, enable_thinking=True), 0
