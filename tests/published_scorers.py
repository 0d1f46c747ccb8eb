"""The architectures of newer vision-language models: their configs and image processors; see ``published``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]

QWEN3_8B, QWEN3_2B = "Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-VL-2B-Instruct"
ONEVISION = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
INTERNVL = "OpenGVLab/InternVL3-8B-hf"
SMOLVLM = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
GEMMA3 = "google/gemma-3-4b-it"
PALIGEMMA2 = "google/paligemma2-3b-mix-448"
HPSV2, IMAGE_REWARD = "xswu/HPSv2", "THUDM/ImageReward"

_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
_QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}  # fmt: skip
_QWEN3_VL = {
    "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "image_token_id": 151655,
    "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
}  # fmt: skip
_QWEN3 = {
    "model_type": "qwen3_vl_text", "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "max_position_embeddings": 262144,
    "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
}  # fmt: skip
_QWEN3_VISION = {
    "model_type": "qwen3_vl", "num_heads": 16, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
}  # fmt: skip
_SEES_NATIVE = _HALF | {
    "image_processor_type": "Qwen2VLImageProcessor", "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
}  # fmt: skip
_SIZES = [384, 768, 1152, 1536, 1920, 2304]

SCORERS: dict[str, tuple[Json, Json]] = {
    QWEN3_8B: (_QWEN3_VL | {
        "tie_word_embeddings": False,
        "text_config": _QWEN3 | {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        },
        "vision_config": _QWEN3_VISION | {
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
        },
    }, _SEES_NATIVE),
    QWEN3_2B: (_QWEN3_VL | {
        "tie_word_embeddings": True,
        "text_config": _QWEN3 | {
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
            "tie_word_embeddings": True,
        },
        "vision_config": _QWEN3_VISION | {
            "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    }, _SEES_NATIVE),
    ONEVISION: ({
        "architectures": ["LlavaOnevisionForConditionalGeneration"], "model_type": "llava_onevision",
        "image_token_index": 151646, "video_token_index": 151647, "vision_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[height, width] for height in _SIZES for width in _SIZES],
        "tie_word_embeddings": False, "text_config": _QWEN2_7B | {"vocab_size": 152128},
        "vision_config": _SIGLIP | {"image_size": 384, "num_hidden_layers": 26},
    }, _HALF | {"image_processor_type": "LlavaOnevisionImageProcessor", "size": {"height": 384, "width": 384}}),
    INTERNVL: ({
        "architectures": ["InternVLForConditionalGeneration"], "model_type": "internvl", "image_token_id": 151667,
        "tie_word_embeddings": False, "text_config": _QWEN2_7B | {"vocab_size": 151674},
        "vision_config": {"model_type": "internvl_vision", "attention_bias": True},
    }, {
        "image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 448, "width": 448},
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }),
    SMOLVLM: ({
        "architectures": ["SmolVLMForConditionalGeneration"], "model_type": "smolvlm", "image_token_id": 49190,
        "scale_factor": 3, "tie_word_embeddings": False,
        "text_config": {
            "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 49280, "pad_token_id": 2,
            "max_position_embeddings": 8192, "tie_word_embeddings": False,
        },
        "vision_config": {
            "model_type": "smolvlm_vision", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
            "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
        },
    }, {
        "image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 1536},
        "max_image_size": {"longest_edge": 384},
    }),
    GEMMA3: ({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 256,
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
            "sliding_window": 1024, "max_position_embeddings": 131072,
        },
        "vision_config": _SIGLIP | {"image_size": 896},
    }, _HALF | {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 896, "width": 896}}),
    PALIGEMMA2: ({
        "architectures": ["PaliGemmaForConditionalGeneration"], "model_type": "paligemma", "image_token_index": 257152,
        "projection_dim": 2304, "hidden_size": 2304,
        "text_config": {
            "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 257216,
        },
        "vision_config": _SIGLIP | {"image_size": 448, "projection_dim": 2304},
    }, _HALF | {"image_processor_type": "SiglipImageProcessor", "size": {"height": 448, "width": 448}}),
}  # fmt: skip

_VIT_H = {
    "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "projection_dim": 1024, "hidden_act": "gelu",
    },
    "vision_config": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
        "patch_size": 14, "projection_dim": 1024, "hidden_act": "gelu",
    },
}  # fmt: skip
_MED = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": 768,
    "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "num_attention_heads": 12,
    "num_hidden_layers": 12, "vocab_size": 30524, "encoder_width": 768, "add_cross_attention": True,
}  # fmt: skip
_NO_WEIGHTS: Json = {}

# The files of models that were published without a config.json, which here names a model next to them as their base.
PREFERENCES: dict[str, Callable[[str], dict[str, Json]]] = {
    HPSV2: lambda base: {
        "config.json": {"architectures": ["HPSv2"], "base_model": base},
        "base/config.json": _VIT_H,
        "HPS_v2.1_compressed.safetensors": _NO_WEIGHTS,
    },
    IMAGE_REWARD: lambda base: {
        "config.json": {"architectures": ["ImageReward"], "base_model": base},
        "base/config.json": _MED,
        "med_config.json": _MED,
        "ImageReward.safetensors": _NO_WEIGHTS,
    },
}
