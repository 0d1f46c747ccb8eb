"""FLUX.1 and FLUX.2, and Chroma, which is made of FLUX.1."""

from __future__ import annotations

from typing import ClassVar

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.captured import MARK, PackedAdapter, text_before, turn_before
from noisesmith.pipeline.generators.conditioning import join_rows
from noisesmith.pipeline.models.libraries import Tokenizer
from noisesmith.pipeline.models.locate import ModelSource


class Flux(PackedAdapter):
    """CLIP and T5. Schnell is distilled to a few steps without guidance; dev reads the guidance as an input."""

    pipeline_class = "FluxPipeline"
    join_text = staticmethod(join_rows)
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
    join_text = staticmethod(join_rows)


class Flux2(PackedAdapter):
    """FLUX.2-dev: Mistral 3 reads a system message and the prompt. The pipeline packs the latents.

    Its processor is that of a model which also sees images, and needs torchvision. A prompt is text alone, so only the
    processor's tokenizer is loaded. Guidance is an input of the model, and there is no negative prompt.
    """

    pipeline_class = "Flux2Pipeline"
    negative = False
    features = 0
    join_text = staticmethod(join_rows)
    tokenizers_alone: ClassVar[tuple[str, ...]] = ("tokenizer",)

    @classmethod
    def noise_shape(cls, channels: int, rows: int, columns: int) -> tuple[int, ...]:
        return (channels * 4, rows // 2, columns // 2)

    @classmethod
    def uses_guidance(cls, source: ModelSource) -> bool:
        return bool(source.read_json("transformer/config.json").get("guidance_embeds", True))

    @classmethod
    def prefix(cls, tokenizer: Tokenizer) -> tuple[str, int]:
        from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

        system = {"role": "system", "content": [{"type": "text", "text": SYSTEM_MESSAGE}]}
        user = {"role": "user", "content": [{"type": "text", "text": MARK}]}
        text = text_before(tokenizer, [system, user])
        first = tokenizer.bos_token
        if first is not None and tokenizer("").input_ids:  # the tokenizer puts it there by itself
            text = text.removeprefix(first)
        return text, 0


class Flux2Klein(Flux2):
    """Qwen3 reads the prompt as a chat turn, and guidance is true guidance where the model is not distilled."""

    pipeline_class = "Flux2KleinPipeline"
    tokenizers_alone: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def uses_guidance(cls, source: ModelSource) -> bool:
        return not source.read_json("model_index.json").get("is_distilled", False)

    @classmethod
    def prefix(cls, tokenizer: Tokenizer) -> tuple[str, int]:
        return turn_before(tokenizer, enable_thinking=False), 0
