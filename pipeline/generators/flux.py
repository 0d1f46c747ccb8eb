"""FLUX.1 and FLUX.2, and Chroma, which is made of FLUX.1."""

from __future__ import annotations

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.captured import PackedAdapter, turn_before
from noisesmith.pipeline.models.libraries import Tokenizer
from noisesmith.pipeline.models.locate import ModelSource


class Flux(PackedAdapter):
    """CLIP and T5. Schnell is distilled to a few steps without guidance; dev reads the guidance as an input."""

    pipeline_class = "FluxPipeline"
    fixed_text = True
    negative = False

    @classmethod
    def uses_guidance(cls, source: ModelSource) -> bool:
        return bool(source.read_json("transformer/config.json").get("guidance_embeds"))

    @classmethod
    def own_limits(cls, config: GeneratorConfig) -> dict[str, int]:
        return {"text_encoder_2": cls.text_length(config)}


class Chroma(PackedAdapter):
    """T5 alone, and guidance in a second pass."""

    pipeline_class = "ChromaPipeline"


class Flux2Klein(PackedAdapter):
    """Qwen3 reads the prompt as a chat turn. The pipeline packs the latents, and has no negative prompt."""

    pipeline_class = "Flux2KleinPipeline"
    negative = False
    features = 0

    @classmethod
    def noise_shape(cls, channels: int, rows: int, columns: int) -> tuple[int, ...]:
        return (channels * 4, rows // 2, columns // 2)

    @classmethod
    def uses_guidance(cls, source: ModelSource) -> bool:
        return not source.read_json("model_index.json").get("is_distilled", False)

    @classmethod
    def prefix(cls, tokenizer: Tokenizer) -> tuple[str, int]:
        return turn_before(tokenizer, enable_thinking=False), 0
