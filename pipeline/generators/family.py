"""How the families of diffusion models differ, as far as it is known before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators.base import LatentSpec
from noisesmith.pipeline.models.libraries import Model, Options, Tokenizer
from noisesmith.pipeline.text.limits import TextLimit, stated_limit


class Family:
    """The facts about a family that finding, checking, loading and estimating need.

    Attributes:
        pipeline_class: class in ``diffusers`` that loads and samples.
        denoiser: the component that predicts, ``unet`` or ``transformer``.
        flow: whether it is trained by flow matching.
        multiple: pixel sizes must be a multiple of this for the pipeline itself.
        own_options: config fields that only this family has.
    """

    pipeline_class: ClassVar[str]
    denoiser: ClassVar[str] = "unet"
    flow: ClassVar[bool] = False
    multiple: ClassVar[int] = 8
    own_options: ClassVar[tuple[str, ...]] = ()

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
            tokens = cls.own_limits(config).get(encoder) or stated_limit(tokenizer)
            limits.append(TextLimit(encoder, tokens, tokenizer))
        return limits

    @classmethod
    def own_limits(cls, config: GeneratorConfig) -> dict[str, int]:
        """Tokens that the pipeline gives an encoder, where its tokenizer does not say it, by the encoder's name."""
        return {}

    @classmethod
    def blank_step(cls, denoiser: Model, spec: LatentSpec, batch: int, tokens: int, config: GeneratorConfig) -> Options:
        """What the denoiser's forward takes for one sampler step, as tensors without numbers.

        Args:
            denoiser: the model on the ``meta`` device.
            batch: rows of the step, where guidance doubles them.
            tokens: length of a prompt by the CLIP encoder.
        """
        settings = denoiser.config
        inputs: Options = {
            "sample": blank(denoiser, batch, *spec.shape),
            "timestep": torch.ones(batch),
            "encoder_hidden_states": blank(denoiser, batch, tokens, settings.cross_attention_dim),
        }
        if settings.time_cond_proj_dim is not None:  # guidance is distilled into the model, as in LCM
            inputs["timestep_cond"] = blank(denoiser, batch, settings.time_cond_proj_dim)
        return inputs


def blank(model: Model, *shape: int) -> Tensor:
    """A tensor without numbers on the ``meta`` device, in the type of a model."""
    return torch.empty(*shape, dtype=model.dtype, device="meta")
