"""Qwen-Image."""

from __future__ import annotations

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.captured import PackedAdapter
from noisesmith.pipeline.generators.conditioning import join_padded
from noisesmith.pipeline.models.libraries import Options, Tokenizer

# The pipeline's own, and how many tokens it has: their embeddings are dropped.
PREFIX = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
PREFIX_TOKENS = 34


class QwenImage(PackedAdapter):
    """Qwen2.5-VL reads the prompt; the VAE is a video's, so that z_0 has one frame.

    Guidance is the pipeline's ``true_cfg_scale``, which needs a negative prompt: a space where the config has none.
    """

    pipeline_class = "QwenImagePipeline"
    join_text = staticmethod(join_padded)

    @classmethod
    def decoded_shape(cls, channels: int, rows: int, columns: int) -> tuple[int, ...]:
        return (channels, 1, rows, columns)

    @classmethod
    def call_options(cls, config: GeneratorConfig, rows: int) -> Options:
        options = super().call_options(config, rows)
        options["true_cfg_scale"] = options.pop("guidance_scale")
        if config.guidance_scale > cls.no_guidance:
            options.setdefault("negative_prompt", [" "] * rows)
        return options

    @classmethod
    def prefix(cls, tokenizer: Tokenizer) -> tuple[str, int]:
        return PREFIX, PREFIX_TOKENS
