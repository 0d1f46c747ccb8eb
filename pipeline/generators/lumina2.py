"""Lumina-Image 2.0."""

from __future__ import annotations

from noisesmith.pipeline.generators.captured import CapturedAdapter
from noisesmith.pipeline.generators.conditioning import join_rows
from noisesmith.pipeline.models.libraries import Tokenizer

# The pipeline's own: what stands before a prompt that has no system prompt of its own.
SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts."
)


class Lumina2(CapturedAdapter):
    """Gemma reads the prompt after the pipeline's system prompt."""

    pipeline_class = "Lumina2Pipeline"
    join_text = staticmethod(join_rows)
    multiple = 16

    @classmethod
    def prefix(cls, tokenizer: Tokenizer) -> tuple[str, int]:
        return f"{SYSTEM} <Prompt Start> ", 0
