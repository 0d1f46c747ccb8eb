"""The architectures of the models that ``configs/`` names, as folders of their JSON files; weight files are empty.

Written down from the published architectures and not copied from the files; the numbers of parameters bear them out.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
from transformers import PreTrainedTokenizerFast

from tests import published_scorers, tiny

Json = dict[str, Any]

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD21 = "stabilityai/stable-diffusion-2-1"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
TURBO = "stabilityai/sdxl-turbo"
SD35 = "stabilityai/stable-diffusion-3.5-medium"
FLUX_DEV, FLUX_SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"
KLEIN = "black-forest-labs/FLUX.2-klein-4B"
CHROMA = "lodestones/Chroma1-HD"
Z_IMAGE = "Tongyi-MAI/Z-Image-Turbo"
QWEN_IMAGE = "Qwen/Qwen-Image"
SANA = "Efficient-Large-Model/Sana_1600M_1024px_diffusers"
PIXART = "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"
LUMINA = "Alpha-VLLM/Lumina-Image-2.0"
CLIP_FLANT5_XL, CLIP_FLANT5_XXL = "zhiqiulin/clip-flant5-xl", "zhiqiulin/clip-flant5-xxl"
LLAVA = "llava-hf/llava-1.5-7b-hf"
QWEN_7B, QWEN_3B = "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"

_BLOCKS = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
_VAE = _BLOCKS | {
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "latent_channels": 4
}  # fmt: skip
_VAE_XL = _VAE | {"force_upcast": True, "scaling_factor": 0.13025}
_VAE_3 = _VAE | {
    "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5305,
    "shift_factor": 0.0609, "force_upcast": True,
}  # fmt: skip
_UNET_15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
_UNET_21 = {
    "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}  # fmt: skip
_UNET_XL = {
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
_CLIP_L = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
    "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_CLIP_H = _CLIP_L | {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip
_CLIP_G = _CLIP_L | {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
_T5 = {
    "vocab_size": 32128, "d_kv": 64, "num_layers": 24, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_T5_XL = _T5 | {"d_model": 2048, "d_ff": 5120, "num_heads": 32}
_T5_XXL = _T5 | {"d_model": 4096, "d_ff": 10240, "num_heads": 64}
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
_SCHEDULE = {
    "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "timestep_spacing": "leading",
}  # fmt: skip
_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}

_GENERATORS: dict[str, tuple[str, Json, dict[str, tuple[str, str, Json]]]] = {
    SD15: ("StableDiffusionPipeline", _SCHEDULE, {
        "unet": ("diffusers", "UNet2DConditionModel", _UNET_15), "vae": ("diffusers", "AutoencoderKL", _VAE),
        "text_encoder": ("transformers", "CLIPTextModel", _CLIP_L),
    }),
    SD21: ("StableDiffusionPipeline", _SCHEDULE | {"prediction_type": "v_prediction"}, {
        "unet": ("diffusers", "UNet2DConditionModel", _UNET_21), "vae": ("diffusers", "AutoencoderKL", _VAE),
        "text_encoder": ("transformers", "CLIPTextModel", _CLIP_H),
    }),
    **{
        model: ("StableDiffusionXLPipeline", _SCHEDULE, {
            "unet": ("diffusers", "UNet2DConditionModel", _UNET_XL | {"sample_size": size}),
            "vae": ("diffusers", "AutoencoderKL", _VAE_XL),
            "text_encoder": ("transformers", "CLIPTextModel", _CLIP_L),
            "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", _CLIP_G),
        })
        for model, size in ((SDXL, 128), (TURBO, 64))
    },
    SD35: ("StableDiffusion3Pipeline", _FLOW, {
        "transformer": ("diffusers", "SD3Transformer2DModel", _TRANSFORMER_35),
        "vae": ("diffusers", "AutoencoderKL", _VAE_3),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection", _CLIP_L),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", _CLIP_G),
        "text_encoder_3": ("transformers", "T5EncoderModel", _T5_XXL),
    }),
}  # fmt: skip
_VAE_FLUX = _VAE_3 | {"scaling_factor": 0.3611, "shift_factor": 0.1159}
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
_SOLVER = {"_class_name": "DPMSolverMultistepScheduler"}
_FLOW_SOLVER = _SOLVER | {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}

# What a config does not name is the class's own default, which is the published architecture.
_GENERATORS |= {
    model: ("FluxPipeline", _FLOW, {
        "transformer": ("diffusers", "FluxTransformer2DModel", {"guidance_embeds": model == FLUX_DEV}),
        "vae": ("diffusers", "AutoencoderKL", _VAE_FLUX),
        "text_encoder": ("transformers", "CLIPTextModel", _CLIP_L),
        "text_encoder_2": ("transformers", "T5EncoderModel", _T5_XXL),
    })
    for model in (FLUX_DEV, FLUX_SCHNELL)
}  # fmt: skip
_GENERATORS |= {
    KLEIN: ("Flux2KleinPipeline", _FLOW, {
        "transformer": ("diffusers", "Flux2Transformer2DModel", _KLEIN_4B),
        "vae": ("diffusers", "AutoencoderKLFlux2", {}),
        "text_encoder": ("transformers", "Qwen3ForCausalLM", _QWEN3_4B),
    }),
    CHROMA: ("ChromaPipeline", _FLOW, {
        "transformer": ("diffusers", "ChromaTransformer2DModel", {}),
        "vae": ("diffusers", "AutoencoderKL", _VAE_FLUX),
        "text_encoder": ("transformers", "T5EncoderModel", _T5_XXL),
    }),
    Z_IMAGE: ("ZImagePipeline", _FLOW, {
        "transformer": ("diffusers", "ZImageTransformer2DModel", {}),
        "vae": ("diffusers", "AutoencoderKL", _VAE_FLUX),
        "text_encoder": ("transformers", "Qwen3Model", _QWEN3_4B),
    }),
    QWEN_IMAGE: ("QwenImagePipeline", _FLOW, {
        "transformer": ("diffusers", "QwenImageTransformer2DModel", {}),
        "vae": ("diffusers", "AutoencoderKLQwenImage", {}),
        "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration", _QWEN_7B),
    }),
    SANA: ("SanaPipeline", _FLOW_SOLVER, {
        "transformer": ("diffusers", "SanaTransformer2DModel", {}), "vae": ("diffusers", "AutoencoderDC", _VAE_DC),
        "text_encoder": ("transformers", "Gemma2Model", _GEMMA_2B),
    }),
    PIXART: ("PixArtSigmaPipeline", _SOLVER, {
        "transformer": ("diffusers", "PixArtTransformer2DModel", _PIXART),
        "vae": ("diffusers", "AutoencoderKL", _VAE_XL),
        "text_encoder": ("transformers", "T5EncoderModel", _T5_XXL),
    }),
    LUMINA: ("Lumina2Pipeline", _FLOW, {
        "transformer": ("diffusers", "Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
        "vae": ("diffusers", "AutoencoderKL", _VAE_FLUX),
        "text_encoder": ("transformers", "Gemma2Model", _GEMMA_2B),
    }),
}  # fmt: skip
_SCORERS: dict[str, tuple[Json, Json]] = published_scorers.SCORERS | {
    LLAVA: (_LLAVA, _SEES_336), QWEN_7B: (_QWEN_7B, _SEES_NATIVE), QWEN_3B: (_QWEN_3B, _SEES_NATIVE),
}  # fmt: skip


def folder_of(model: str, root: Path) -> Path:
    """A folder below ``root`` with the model's JSON files."""
    folder = root / model.replace("/", "--")
    if model in _GENERATORS:
        pipeline, schedule, parts = _GENERATORS[model]
        _write(folder / "scheduler" / "scheduler_config.json", schedule)
        index = {"scheduler": ["diffusers", schedule["_class_name"]]}
        for name, (library, class_name, config) in parts.items():
            _write(folder / name / "config.json", _defaults(library, class_name) | config)
            (folder / name / "model.safetensors").touch()
            index[name] = [library, class_name]
            if name.startswith("text_encoder"):
                tokenizer = name.replace("text_encoder", "tokenizer")
                _tokenizer(77 if "CLIP" in class_name else 2048).save_pretrained(folder / tokenizer)
                index[tokenizer] = ["transformers", "PreTrainedTokenizerFast"]
        _write(folder / "model_index.json", {"_class_name": pipeline} | index)
        return folder
    if model in published_scorers.PREFERENCES:
        for name, content in published_scorers.PREFERENCES[model](str(folder / "base")).items():
            _write(folder / name, content)
        return folder
    if model in _SCORERS:
        config, sees = _SCORERS[model]
    else:
        config, sees = _clip_flant5(_T5_XL if model == CLIP_FLANT5_XL else _T5_XXL, root), _SEES_336
    _write(folder / "config.json", config)
    _write(folder / "preprocessor_config.json", sees)
    (folder / "model.safetensors").touch()
    return folder


def _defaults(library: str, class_name: str) -> Json:
    """What a class of ``diffusers`` writes into a config besides what it is given."""
    if library != "diffusers":
        return {}
    parameters = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    empty = inspect.Parameter.empty
    return {name: one.default for name, one in parameters.items() if one.default is not empty}


def _tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Words as tokens: the lengths that pipelines pad to are theirs, whatever the vocabulary."""
    tokenizer = tiny.tokenizer(length, template=True)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return tokenizer


def _clip_flant5(t5: Json, root: Path) -> Json:
    tower = root / "clip-vit-large-patch14-336"
    _write(tower / "config.json", _VIT_336)
    _write(tower / "preprocessor_config.json", _SEES_336)
    return t5 | {
        "architectures": ["CLIPT5ForConditionalGeneration"], "model_type": "t5", "mm_vision_tower": str(tower),
        "mm_projector_type": "mlp2x_gelu",
    }  # fmt: skip


def _write(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
