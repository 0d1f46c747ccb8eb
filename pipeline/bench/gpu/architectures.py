"""The architectures of published models, as what their configs say besides the defaults of the libraries' classes.

Written down from the papers and from the models' pages on the Hub, under whose ids they stand here. The numbers of
parameters bear them out: U-Net 0.860 G (SD 1.5) and 2.567 G (SDXL), transformer 2.243 G (SD 3.5 medium), LLaVA-1.5
7.063 G, and CLIP-FlanT5-XL 2.850 G with a vision tower of 0.304 G.

Sources: Rombach et al., arXiv 2112.10752 (Stable Diffusion); Podell et al., arXiv 2307.01952 (SDXL); Esser et al.,
arXiv 2403.03206 (SD 3); Liu et al., arXiv 2310.03744 (LLaVA-1.5); Lin et al., arXiv 2404.01291 (CLIP-FlanT5); Radford
et al., arXiv 2103.00020 (CLIP); Raffel et al., arXiv 1910.10683 (T5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from noisesmith.pipeline.models.libraries import Json

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SD35 = "stabilityai/stable-diffusion-3.5-medium"
LLAVA = "llava-hf/llava-1.5-7b-hf"
CLIP_FLANT5_XL = "zhiqiulin/clip-flant5-xl"


@dataclass(frozen=True)
class Part:
    """One model of a pipeline: its library, its class, and what its config says."""

    library: str
    class_name: str
    config: Json


@dataclass(frozen=True)
class PipelineArchitecture:
    """A pipeline of ``diffusers``: its class, its scheduler's config, and its models by their folders."""

    class_name: str
    scheduler: Json
    parts: dict[str, Part]


@dataclass(frozen=True)
class ScorerArchitecture:
    """A vision-language model: its config, and that of its image processor.

    Attributes:
        tower: config of a vision tower that is a model of its own, which the config names.
    """

    config: Json
    image_processor: Json
    tower: Json | None = None


def diffusion_part(class_name: str, config: Json) -> Part:
    """A model of ``diffusers``."""
    return Part("diffusers", class_name, config)


def text_part(class_name: str, config: Json) -> Part:
    """A model of ``transformers``."""
    return Part("transformers", class_name, config)


VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "latent_channels": 4,
}  # fmt: skip
VAE_XL = VAE | {"force_upcast": True, "scaling_factor": 0.13025}
VAE_3 = VAE | {
    "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5305,
    "shift_factor": 0.0609, "force_upcast": True,
}  # fmt: skip
_UNET_15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
UNET_XL = {
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
    "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
_TRANSFORMER_35 = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "num_attention_heads": 24, "attention_head_dim": 64, "caption_projection_dim": 1536, "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
    "dual_attention_layers": list(range(13)),
}  # fmt: skip
CLIP_L: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
    "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
CLIP_G = CLIP_L | {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
_T5 = {
    "vocab_size": 32128, "d_kv": 64, "num_layers": 24, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_T5_XL = _T5 | {"d_model": 2048, "d_ff": 5120, "num_heads": 32}
T5_XXL = _T5 | {"d_model": 4096, "d_ff": 10240, "num_heads": 64}
_VIT_336 = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768, "model_type": "clip_vision_model",
    "architectures": ["CLIPVisionModel"],
}  # fmt: skip
_SEES_336 = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 336},
    "crop_size": {"height": 336, "width": 336},
}  # fmt: skip
_LLAVA = {
    "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "image_token_index": 32000,
    "text_config": {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096},
    "vision_config": _VIT_336 | {"vocab_size": 32000},
}  # fmt: skip
_CLIP_FLANT5 = {
    "architectures": ["CLIPT5ForConditionalGeneration"], "model_type": "t5", "mm_projector_type": "mlp2x_gelu",
}  # fmt: skip
SCHEDULE = {
    "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "timestep_spacing": "leading",
}  # fmt: skip
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


def stable_diffusion_xl(latents: int) -> PipelineArchitecture:
    """SDXL whose own images have ``latents`` latents per side."""
    return PipelineArchitecture(
        "StableDiffusionXLPipeline",
        SCHEDULE,
        {
            "unet": diffusion_part("UNet2DConditionModel", UNET_XL | {"sample_size": latents}),
            "vae": diffusion_part("AutoencoderKL", VAE_XL),
            "text_encoder": text_part("CLIPTextModel", CLIP_L),
            "text_encoder_2": text_part("CLIPTextModelWithProjection", CLIP_G),
        },
    )


def clip_flant5(t5: Json) -> ScorerArchitecture:
    """CLIP-FlanT5 with a T5 of the given sizes."""
    return ScorerArchitecture(t5 | _CLIP_FLANT5, _SEES_336, tower=_VIT_336)


PIPELINES = {
    SD15: PipelineArchitecture(
        "StableDiffusionPipeline",
        SCHEDULE,
        {
            "unet": diffusion_part("UNet2DConditionModel", _UNET_15),
            "vae": diffusion_part("AutoencoderKL", VAE),
            "text_encoder": text_part("CLIPTextModel", CLIP_L),
        },
    ),
    SDXL: stable_diffusion_xl(latents=128),
    SD35: PipelineArchitecture(
        "StableDiffusion3Pipeline",
        FLOW,
        {
            "transformer": diffusion_part("SD3Transformer2DModel", _TRANSFORMER_35),
            "vae": diffusion_part("AutoencoderKL", VAE_3),
            "text_encoder": text_part("CLIPTextModelWithProjection", CLIP_L),
            "text_encoder_2": text_part("CLIPTextModelWithProjection", CLIP_G),
            "text_encoder_3": text_part("T5EncoderModel", T5_XXL),
        },
    ),
}
SCORERS = {LLAVA: ScorerArchitecture(_LLAVA, _SEES_336), CLIP_FLANT5_XL: clip_flant5(_T5_XL)}
