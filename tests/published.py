"""The architectures of the models that ``configs/`` names, as folders of their JSON files; weight files are empty.

Those that ``bench gpu`` measures are in ``pipeline/bench/gpu/architectures.py``, the others are here. All are written
down from the published architectures and not copied from the files; the numbers of parameters bear them out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from noisesmith.pipeline.bench.gpu import architectures
from noisesmith.pipeline.bench.gpu.architectures import (
    CLIP_FLANT5_XL,
    CLIP_L,
    FLOW,
    LLAVA,
    SCHEDULE,
    SD15,
    SD35,
    SDXL,
    T5_XXL,
    VAE,
    VAE_3,
    VAE_XL,
    PipelineArchitecture,
    ScorerArchitecture,
    clip_flant5,
    diffusion_part,
    stable_diffusion_xl,
    text_part,
)
from noisesmith.pipeline.bench.gpu.folders import write_json, write_pipeline, write_scorer
from tests import published_scorers, tiny

__all__ = ["CLIP_FLANT5_XL", "LLAVA", "SD15", "SD35", "SDXL"]

Json = dict[str, Any]

SD21 = "stabilityai/stable-diffusion-2-1"
TURBO = "stabilityai/sdxl-turbo"
FLUX_DEV, FLUX_SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"
FLUX2_DEV, KLEIN = "black-forest-labs/FLUX.2-dev", "black-forest-labs/FLUX.2-klein-4B"
CHROMA = "lodestones/Chroma1-HD"
Z_IMAGE = "Tongyi-MAI/Z-Image-Turbo"
QWEN_IMAGE = "Qwen/Qwen-Image"
SANA = "Efficient-Large-Model/Sana_1600M_1024px_diffusers"
PIXART = "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"
LUMINA = "Alpha-VLLM/Lumina-Image-2.0"
CLIP_FLANT5_XXL = "zhiqiulin/clip-flant5-xxl"
QWEN_7B, QWEN_3B = "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"

_UNET_21 = {
    "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}  # fmt: skip
_CLIP_H = CLIP_L | {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip
_QWEN = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "image_token_id": 151655,
    "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "rope_theta": 1000000.0,
    "max_position_embeddings": 128000,
}  # fmt: skip
_QWEN_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
_QWEN_7B = _QWEN | {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    "vision_config": _QWEN_VISION | {"out_hidden_size": 3584},
}  # fmt: skip
_QWEN_3B = _QWEN | {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    "vision_config": _QWEN_VISION | {"out_hidden_size": 2048},
}  # fmt: skip
_SEES_NATIVE = {
    "image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14,
    "temporal_patch_size": 2, "merge_size": 2,
}  # fmt: skip

_PIPELINES = architectures.PIPELINES | {
    SD21: PipelineArchitecture("StableDiffusionPipeline", SCHEDULE | {"prediction_type": "v_prediction"}, {
        "unet": diffusion_part("UNet2DConditionModel", _UNET_21), "vae": diffusion_part("AutoencoderKL", VAE),
        "text_encoder": text_part("CLIPTextModel", _CLIP_H),
    }),
    TURBO: stable_diffusion_xl(latents=64),
}  # fmt: skip
_VAE_FLUX = VAE_3 | {"scaling_factor": 0.3611, "shift_factor": 0.1159}
_DC_BLOCKS = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
_VAE_DC = {
    "latent_channels": 32, "encoder_block_types": _DC_BLOCKS, "decoder_block_types": _DC_BLOCKS,
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3], "decoder_layers_per_block": [3] * 6,
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]], "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "upsample_block_type": "interpolate", "downsample_block_type": "Conv", "scaling_factor": 0.41407,
}  # fmt: skip
_GEMMA_2B = {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
}  # fmt: skip
_QWEN3_4B = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
_PIXART = {"caption_channels": 4096, "use_additional_conditions": False, "sample_size": 128}
_KLEIN_4B = {
    "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
    "guidance_embeds": False,
}  # fmt: skip
_MISTRAL3 = {
    "vision_config": {"model_type": "pixtral", "image_size": 1540, "patch_size": 14}, "tie_word_embeddings": False,
    "text_config": {
        "model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
    },
}  # fmt: skip
_SOLVER = {"_class_name": "DPMSolverMultistepScheduler"}
_FLOW_SOLVER = _SOLVER | {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}

# What a config does not name is the class's own default, which is the published architecture.
_PIPELINES |= {
    model: PipelineArchitecture("FluxPipeline", FLOW, {
        "transformer": diffusion_part("FluxTransformer2DModel", {"guidance_embeds": model == FLUX_DEV}),
        "vae": diffusion_part("AutoencoderKL", _VAE_FLUX),
        "text_encoder": text_part("CLIPTextModel", CLIP_L),
        "text_encoder_2": text_part("T5EncoderModel", T5_XXL),
    })
    for model in (FLUX_DEV, FLUX_SCHNELL)
}  # fmt: skip
_PIPELINES |= {
    FLUX2_DEV: PipelineArchitecture("Flux2Pipeline", FLOW, {
        "transformer": diffusion_part("Flux2Transformer2DModel", {}),
        "vae": diffusion_part("AutoencoderKLFlux2", {}),
        "text_encoder": text_part("Mistral3ForConditionalGeneration", _MISTRAL3),
    }),
    KLEIN: PipelineArchitecture("Flux2KleinPipeline", FLOW, {
        "transformer": diffusion_part("Flux2Transformer2DModel", _KLEIN_4B),
        "vae": diffusion_part("AutoencoderKLFlux2", {}),
        "text_encoder": text_part("Qwen3ForCausalLM", _QWEN3_4B),
    }),
    CHROMA: PipelineArchitecture("ChromaPipeline", FLOW, {
        "transformer": diffusion_part("ChromaTransformer2DModel", {}),
        "vae": diffusion_part("AutoencoderKL", _VAE_FLUX),
        "text_encoder": text_part("T5EncoderModel", T5_XXL),
    }),
    Z_IMAGE: PipelineArchitecture("ZImagePipeline", FLOW, {
        "transformer": diffusion_part("ZImageTransformer2DModel", {}),
        "vae": diffusion_part("AutoencoderKL", _VAE_FLUX),
        "text_encoder": text_part("Qwen3Model", _QWEN3_4B),
    }),
    QWEN_IMAGE: PipelineArchitecture("QwenImagePipeline", FLOW, {
        "transformer": diffusion_part("QwenImageTransformer2DModel", {}),
        "vae": diffusion_part("AutoencoderKLQwenImage", {}),
        "text_encoder": text_part("Qwen2_5_VLForConditionalGeneration", _QWEN_7B),
    }),
    SANA: PipelineArchitecture("SanaPipeline", _FLOW_SOLVER, {
        "transformer": diffusion_part("SanaTransformer2DModel", {}), "vae": diffusion_part("AutoencoderDC", _VAE_DC),
        "text_encoder": text_part("Gemma2Model", _GEMMA_2B),
    }),
    PIXART: PipelineArchitecture("PixArtSigmaPipeline", _SOLVER, {
        "transformer": diffusion_part("PixArtTransformer2DModel", _PIXART),
        "vae": diffusion_part("AutoencoderKL", VAE_XL),
        "text_encoder": text_part("T5EncoderModel", T5_XXL),
    }),
    LUMINA: PipelineArchitecture("Lumina2Pipeline", FLOW, {
        "transformer": diffusion_part("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
        "vae": diffusion_part("AutoencoderKL", _VAE_FLUX),
        "text_encoder": text_part("Gemma2Model", _GEMMA_2B),
    }),
}  # fmt: skip
_SCORERS = {name: ScorerArchitecture(*files) for name, files in published_scorers.SCORERS.items()}
_SCORERS |= architectures.SCORERS | {
    CLIP_FLANT5_XXL: clip_flant5(T5_XXL),
    QWEN_7B: ScorerArchitecture(_QWEN_7B, _SEES_NATIVE),
    QWEN_3B: ScorerArchitecture(_QWEN_3B, _SEES_NATIVE),
}


def folder_of(model: str, root: Path) -> Path:
    """A folder below ``root`` with the model's JSON files."""
    folder = root / model.replace("/", "--")
    if model in _PIPELINES:
        write_pipeline(_PIPELINES[model], folder, _tokenizer)
    elif model in _SCORERS:
        write_scorer(_SCORERS[model], folder)
    else:
        for name, content in published_scorers.PREFERENCES[model](str(folder / "base")).items():
            write_json(folder / name, content)
    return folder


def _tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Words as tokens: the lengths that pipelines pad to are theirs, whatever the vocabulary."""
    tokenizer = tiny.tokenizer(length, template=True)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return tokenizer
