"""How the families of diffusion models differ, as far as it is known before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.conditioning import Join
from noisesmith.pipeline.models.libraries import Options, Tokenizer
from noisesmith.pipeline.models.locate import ModelSource
from noisesmith.pipeline.text.limits import TextLimit, stated_limit


class Family:
    """The facts about a family that finding, checking, loading and estimating need.

    Attributes:
        pipeline_class: class in ``diffusers`` that loads and samples.
        denoiser: the component that predicts, ``unet`` or ``transformer``.
        flow: whether it is trained by flow matching.
        multiple: pixel sizes must be a multiple of this for the pipeline itself.
        own_options: config fields that only this family has.
        captured: whether z_0 is what the pipeline hands to its VAE, and not the sampler's result.
        keeps_float32: whether the pipeline samples in float32 whatever the model's type is.
        no_guidance: the largest ``guidance_scale`` that the pipeline takes for none.
        negative: whether it takes a negative prompt.
        patch: latent cells per side of a patch; the denoiser's ``patch_size`` when ``None``.
        features: the axis of z_T that the denoiser's ``in_channels`` counts.
        sample_size: the pipeline's own size in latent cells, where the denoiser's config has none.
        join_text: makes of what the pipeline encodes of single prompts what it encodes of all of them, so that each is
            encoded once; ``None`` where nobody has looked whether that is the same.
        tokenizers_alone: parts that are processors of text and images, of which only the tokenizer is loaded.
    """

    pipeline_class: ClassVar[str]
    denoiser: ClassVar[str] = "unet"
    flow: ClassVar[bool] = False
    multiple: ClassVar[int] = 8
    own_options: ClassVar[tuple[str, ...]] = ()
    captured: ClassVar[bool] = False
    keeps_float32: ClassVar[bool] = False
    no_guidance: ClassVar[float] = 1.0
    negative: ClassVar[bool] = True
    patch: ClassVar[int | None] = None
    features: ClassVar[int] = 0
    sample_size: ClassVar[int | None] = None
    join_text: ClassVar[Join | None] = None
    tokenizers_alone: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def noise_shape(cls, channels: int, rows: int, columns: int) -> tuple[int, ...]:
        """The shape of z_T, as the pipeline's ``latents`` takes it, for so many latent cells."""
        return (channels, rows, columns)

    @classmethod
    def decoded_shape(cls, channels: int, rows: int, columns: int) -> tuple[int, ...]:
        """The shape of z_0, as the decoder takes it."""
        return (channels, rows, columns)

    @classmethod
    def call_options(cls, config: GeneratorConfig, rows: int) -> Options:
        """What the pipeline's call takes besides prompts, latents, sizes and steps: guidance, for so many rows."""
        negative = [config.negative_prompt] * rows if config.negative_prompt else None
        return {"guidance_scale": config.guidance_scale, "negative_prompt": negative}

    @classmethod
    def uses_guidance(cls, source: ModelSource) -> bool:
        """Whether ``guidance_scale`` changes anything for this checkpoint."""
        return True

    @classmethod
    def without(cls, config: GeneratorConfig) -> Options:
        """Components that are left out, as keyword arguments of the pipeline's loader.

        No part that reads images is needed: they serve the safety checker and image prompts.
        """
        return {"feature_extractor": None, "image_encoder": None}

    @classmethod
    def text_limits(cls, tokenizers: Mapping[str, Tokenizer], config: GeneratorConfig) -> list[TextLimit]:
        """What each text encoder reads of a prompt.

        Args:
            tokenizers: by the pipeline's names for them: ``tokenizer``, ``tokenizer_2``.
        """
        limits = []
        for name, tokenizer in tokenizers.items():
            encoder = name.replace("tokenizer", "text_encoder")
            tokens = cls.own_limits(config).get(encoder) or cls.text_limit(tokenizer, config)
            limits.append(TextLimit(encoder, tokens, tokenizer))
        return limits

    @classmethod
    def text_limit(cls, tokenizer: Tokenizer, config: GeneratorConfig) -> int | None:
        """Tokens that an encoder reads which is not among :meth:`own_limits`; ``None`` where no file says it."""
        return stated_limit(tokenizer)

    @classmethod
    def own_limits(cls, config: GeneratorConfig) -> dict[str, int]:
        """Tokens that the pipeline gives an encoder, where its tokenizer does not say it, by the encoder's name."""
        return {}
