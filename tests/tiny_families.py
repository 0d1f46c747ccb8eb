"""Tiny models with random weights of the scorer families' true classes, saved as their checkpoints are on the Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5Tokenizer,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from tests import tiny, tiny_preferences, tiny_scorers, tiny_vlms
from tests.tiny import tokenizer

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TOKENS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


def _randomise(model: PreTrainedModel) -> PreTrainedModel:
    """Weights wide enough that a slip in tokens, masks, positions or patches moves a score by 1e-4 and more."""
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model.eval()


def llava_next(folder: Path) -> Path:
    torch.manual_seed(1)
    tokens = tokenizer(512, template=False)
    pinpoints = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=16, patch_size=8, projection_dim=16),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokens), max_position_embeddings=512, pad_token_id=0),
        image_token_index=tokens.convert_tokens_to_ids("<image>"), image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    _randomise(LlavaNextForConditionalGeneration(config)).save_pretrained(folder, safe_serialization=True)
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints
    )
    LlavaNextProcessor(
        image_processor=images, tokenizer=tokens, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, image_token="<image>", chat_template=LLAVA_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def qwen2_vl(folder: Path) -> Path:
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return _qwen(folder, Qwen2VLConfig, Qwen2VLForConditionalGeneration, vision, {})


def hpsv3(folder: Path, *, pickled: bool = False) -> Path:
    """The weights, with the names of an older version of the library, next to a tiny Qwen2-VL's files."""
    base = qwen2_vl(folder / "base")
    (base / "model.safetensors").unlink()
    config = Qwen2VLConfig.from_pretrained(base)
    config.text_config.vocab_size += 1  # the reward token's
    torch.manual_seed(33)
    network = _randomise(Qwen2VLForConditionalGeneration(config))
    head = tiny_preferences.rating_head(TEXT["hidden_size"])
    weights = {f"rm_head.{name}": value for name, value in head.state_dict().items()}
    for name, value in network.state_dict().items():
        weights[name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")] = value
    tiny_preferences.describe(folder, "HPSv3", base)
    tiny_preferences.store(folder / "HPSv3", weights, pickled=pickled)
    return folder


def qwen2_5_vl(folder: Path, tokens: PreTrainedTokenizerFast | None = None) -> Path:
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "window_size": 16, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return _qwen(folder, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, vision, {}, tokens)


def qwen3_vl(folder: Path, tokens: PreTrainedTokenizerFast | None = None) -> Path:
    vision = {
        "depth": 3, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    text = {"head_dim": 8}
    return _qwen(folder, Qwen3VLConfig, Qwen3VLForConditionalGeneration, vision, text, tokens)


def unified_reward(folder: Path) -> Path:
    """A Qwen3-VL whose tokenizer has bytes, and so a token for each digit, as Qwen's own has."""
    tokens = _qwen3_5_tokenizer()
    tokens.chat_template = QWEN_TEMPLATE
    return qwen3_vl(folder, tokens)


def unified_reward_2_5(folder: Path) -> Path:
    """The same of Qwen2.5-VL."""
    tokens = _qwen3_5_tokenizer()
    tokens.chat_template = QWEN_TEMPLATE
    return qwen2_5_vl(folder, tokens)


def qwen3_5(folder: Path) -> Path:
    """A layer of linear attention and a full one; the template opens with thoughts unless ``enable_thinking=False``."""
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "num_position_embeddings": 16,
    }  # fmt: skip
    text = {
        "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
        "partial_rotary_factor": 0.5,
    }  # fmt: skip
    tokens = _qwen3_5_tokenizer()
    tokens.chat_template = QWEN_TEMPLATE.replace(
        "assistant\n{% endif %}",
        "assistant\n{% if enable_thinking is false %}no : no{% else %}yes{% endif %}\n{% endif %}",
    )
    return _qwen(folder, Qwen3_5Config, Qwen3_5ForConditionalGeneration, vision, text, tokens)


def _qwen3_5_tokenizer() -> Qwen3_5Tokenizer:
    """Bytes and pieces of words; the library reads the files of any checkpoint of this family as this class."""
    core = Qwen3_5Tokenizer().backend_tokenizer
    trainer = BpeTrainer(vocab_size=500, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    core.train_from_iterator([word for word in tiny.WORDS for _ in range(9)], trainer)
    learned = json.loads(core.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    tokens = Qwen3_5Tokenizer(vocab=learned["vocab"], merges=merges, model_max_length=512)
    tokens.add_tokens(QWEN_TOKENS, special_tokens=True)
    return tokens


def _qwen(
    folder: Path,
    config_class: Any,
    model_class: Any,
    vision: dict[str, Any],
    text: dict[str, Any],
    tokens: PreTrainedTokenizerFast | None = None,
) -> Path:
    torch.manual_seed(2)
    if tokens is None:
        tokens = tokenizer(512, template=False)
        tokens.add_tokens(QWEN_TOKENS, special_tokens=True)
        tokens.chat_template = QWEN_TEMPLATE
    config = config_class(
        vision_config=vision | {"patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2},
        text_config=TEXT | text | {
            "vocab_size": len(tokens), "num_key_value_heads": 2, "max_position_embeddings": 1024, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        image_token_id=tokens.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokens.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokens.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokens.convert_tokens_to_ids("<|vision_end|>"),
    )  # fmt: skip
    _randomise(model_class(config)).save_pretrained(folder, safe_serialization=True)
    Qwen2VLImageProcessor(
        size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48}, patch_size=4, merge_size=2
    ).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    torch.manual_seed(3)
    tokens = _captions(16)
    config = CLIPConfig(
        text_config=TEXT | {
            "vocab_size": len(tokens), "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config=VISION | {"image_size": 16, "patch_size": 8}, projection_dim=16,
    )  # fmt: skip
    _randomise(CLIPModel(config)).save_pretrained(folder, safe_serialization=True)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=images, tokenizer=tokens).save_pretrained(folder)
    return folder


def siglip(folder: Path) -> Path:
    vision = VISION | {"image_size": 16, "patch_size": 8}
    images = SiglipImageProcessor(size={"height": 16, "width": 16})
    return _siglip(folder, SiglipConfig, SiglipModel, vision, SiglipProcessor, images)


def siglip2(folder: Path) -> Path:
    vision = VISION | {"patch_size": 8, "num_patches": 16}
    images = Siglip2ImageProcessor(patch_size=8, max_num_patches=12)
    return _siglip(folder, Siglip2Config, Siglip2Model, vision, Siglip2Processor, images)


def _siglip(
    folder: Path, config_class: Any, model_class: Any, vision: dict[str, Any], processor_class: Any, images: Any
) -> Path:
    torch.manual_seed(4)
    tokens = _captions(16)
    tokens.model_input_names = ["input_ids"]  # as in the checkpoints: trained without a mask over the padding
    text = TEXT | {"hidden_size": 16, "vocab_size": len(tokens), "max_position_embeddings": 16, "projection_size": 16}
    config = config_class(text_config=text, vision_config=vision)
    _randomise(model_class(config)).save_pretrained(folder, safe_serialization=True)
    processor_class(image_processor=images, tokenizer=tokens).save_pretrained(folder)
    return folder


def _captions(length: int) -> PreTrainedTokenizerFast:
    return tokenizer(length, template=True)


SCORERS: dict[str, Callable[[Path], Path]] = {  # every local scorer family, by name
    "llava": tiny.llava,
    "llava_next": llava_next,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "llava_onevision": tiny_vlms.llava_onevision,
    "internvl": tiny_vlms.internvl,
    "smolvlm": tiny_vlms.smolvlm,
    "gemma3": tiny_vlms.gemma3,
    "paligemma2": tiny_vlms.paligemma2,
    "clip": clip,
    "siglip": siglip,
    "siglip2": siglip2,
    "hpsv3": hpsv3,
    "hpsv2": tiny_preferences.hpsv2,
    "image_reward": tiny_preferences.image_reward,
    "instructblip_t5": lambda folder: tiny_scorers.instructblip(folder, decoder_only=False),
    "instructblip_vicuna": lambda folder: tiny_scorers.instructblip(folder, decoder_only=True),
    "clip_flant5": tiny_scorers.clip_flant5,
}
