"""Tiny models with random weights of the newer vision-language models' true classes, saved as on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
)
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from tests.tiny import WORDS, tokenizer

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}MARK{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = ["<|im_start|>", "<|im_end|>"]
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GEMMA = TEXT | {"head_dim": 8, "sliding_window": 64}
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip


def randomise(model: PreTrainedModel, deviation: float) -> PreTrainedModel:
    """Weights wide enough that a slip in tokens, masks, positions or tiles moves a score by 1e-4 and more."""
    for parameter in model.parameters():
        parameter.data.normal_(0, deviation)
    return model.eval()


def _tokenizer(mark: str, tokens: list[str], **named: str) -> PreTrainedTokenizerFast:
    """The special tokens of a family, those that it has names for, and a chat template with ``mark`` for the image."""
    core = tokenizer(1024, template=False)
    core.add_tokens([*TURNS, *tokens, *named.values()], special_tokens=True)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core.backend_tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="[UNK]", extra_special_tokens=named, model_max_length=1024,
    )  # fmt: skip
    made.chat_template = CHAT.replace("MARK", mark)
    return made


def _save(folder: Path, model: PreTrainedModel, *processors: Any, deviation: float = 0.3) -> Path:
    randomise(model, deviation).save_pretrained(folder, safe_serialization=True)
    for processor in processors:
        processor.save_pretrained(folder)
    return folder


def llava_onevision(folder: Path) -> Path:
    """Few tiles are kept, so that the features of large images are made fewer."""
    torch.manual_seed(21)
    tokens = _tokenizer("<image>\n", ["<video>"])
    pinpoints = [[height, width] for height in (16, 32, 48) for width in (16, 32, 48)]
    config = LlavaOnevisionConfig(
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokens)},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints, vision_aspect_ratio="anyres_max_3",
    )  # fmt: skip
    images = LlavaOnevisionImageProcessor(size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints)
    return _save(folder, LlavaOnevisionForConditionalGeneration(config), images, tokens)


def internvl(folder: Path) -> Path:
    torch.manual_seed(22)
    tokens = _tokenizer(
        "<IMG_CONTEXT>\n",
        [],
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=VISION | {"image_size": [16, 16], "patch_size": [4, 4]},
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokens)},
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4,
    )  # fmt: skip
    images = GotOcr2ImageProcessor(size={"height": 16, "width": 16}, max_patches=6)
    return _save(folder, InternVLForConditionalGeneration(config), images, tokens)


def smolvlm(folder: Path) -> Path:
    torch.manual_seed(23)
    places = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    tokens = _smolvlm_tokenizer(["<fake_token_around_image>", "<global-img>", *places])
    config = SmolVLMConfig(
        vision_config=VISION, text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokens), "pad_token_id": 2},
        image_token_id=tokens.convert_tokens_to_ids("<image>"), scale_factor=2,
    )  # fmt: skip
    images = SmolVLMImageProcessor(size={"longest_edge": 40}, max_image_size={"longest_edge": 16})
    return _save(folder, SmolVLMForConditionalGeneration(config), images, tokens)


def _smolvlm_tokenizer(places: list[str]) -> PreTrainedTokenizerFast:
    """Bytes and pieces of words, which differ at the start of a text and after a space, and the family's template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    core.train_from_iterator([f"{word} {word}" for word in WORDS for _ in range(9)], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<|endoftext|>", bos_token="<|im_start|>", eos_token="<end_of_utterance>",
        pad_token="<|im_end|>", model_max_length=1024,
    )  # fmt: skip
    made.add_tokens(["<image>", *places], special_tokens=True)
    made.chat_template = DEFAULT_CHAT_TEMPLATE
    return made


def paligemma2(folder: Path) -> Path:
    torch.manual_seed(24)
    tokens = tokenizer(1024, template=False)
    processor = PaliGemmaProcessor(_with_length(SiglipImageProcessor(size={"height": 16, "width": 16})), tokens)
    config = PaliGemmaConfig(
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=GEMMA | {"model_type": "gemma2", "vocab_size": len(tokens), "query_pre_attn_scalar": 8},
        image_token_index=tokens.convert_tokens_to_ids("<image>"), projection_dim=32, hidden_size=32,
    )  # fmt: skip
    return _save(folder, PaliGemmaForConditionalGeneration(config), processor, deviation=0.15)


def _with_length(images: SiglipImageProcessor) -> SiglipImageProcessor:
    images.image_seq_length = 16
    return images


def gemma3(folder: Path) -> Path:
    torch.manual_seed(25)
    tokens = _tokenizer(
        "<start_of_image>",
        [],
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    config = Gemma3Config(
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=GEMMA | {"vocab_size": len(tokens), "query_pre_attn_scalar": 8},
        mm_tokens_per_image=4, boi_token_index=tokens.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokens.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokens.convert_tokens_to_ids("<image_soft_token>"),
    )  # fmt: skip
    images = Gemma3ImageProcessor(size={"height": 16, "width": 16})
    processor = Gemma3Processor(images, tokens, chat_template=tokens.chat_template, image_seq_length=4)
    return _save(folder, Gemma3ForConditionalGeneration(config), processor)
