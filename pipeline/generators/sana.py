"""SANA and SANA-Sprint."""

from __future__ import annotations

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.captured import CapturedAdapter, call_defaults
from noisesmith.pipeline.generators.conditioning import join_rows
from noisesmith.pipeline.models.libraries import Options, Tokenizer


class Sana(CapturedAdapter):
    """Linear transformer over the latents of a VAE that makes an image 32 times smaller.

    Gemma reads the prompt after an instruction of the pipeline.
    """

    pipeline_class = "SanaPipeline"
    join_text = staticmethod(join_rows)
    keeps_float32 = True
    multiple = 32

    @classmethod
    def prefix(cls, tokenizer: Tokenizer) -> tuple[str, int]:
        instruction = "\n".join(call_defaults(cls.pipeline_class, "__call__")["complex_human_instruction"])
        return instruction, len(tokenizer(instruction).input_ids) - 2  # as the pipeline counts it


class SanaSprint(Sana):
    """SANA distilled to one step, or to several between which its sampler draws noise. Guidance is an input."""

    pipeline_class = "SanaSprintPipeline"
    negative = False

    @classmethod
    def call_options(cls, config: GeneratorConfig, rows: int) -> Options:
        return super().call_options(config, rows) | {"intermediate_timesteps": None}  # of two steps
