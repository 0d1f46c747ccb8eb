"""The second scorer: a small Qwen2-VL, whose vision tower has rotary positions and no class token.

It differs from the first scorer in every part: tower, projector, language model, chat format, seed and order of data.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

from noisesmith.pipeline.embedded.geometry import SIZE
from noisesmith.pipeline.embedded.training.architectures import declare_float32, half
from noisesmith.pipeline.embedded.training.vision_tower import OFFSETS, PATCH, whitening_filters
from noisesmith.pipeline.embedded.training.vocabulary import chat_tokenizer

WIDTH = 96
TOWER_WIDTH = 128
HEADS = 4
MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'].upper() }} : "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>ASSISTANT : {% endif %}"
)


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """The first scorer's words, with Qwen's marks around turns and images."""
    tokenizer = chat_tokenizer()
    tokenizer.add_tokens(list(MARKS), special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_qwen() -> Qwen2VLForConditionalGeneration:
    """A vision tower of 64 patches and a language model of three layers."""
    tokenizer = qwen_tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        vision_config={
            "depth": 4,
            "embed_dim": TOWER_WIDTH,
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "mlp_ratio": 3,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": 1,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]},
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    vlm = Qwen2VLForConditionalGeneration(config)
    see_neighbours_by_rotation(vlm)
    return vlm


@torch.no_grad()
def see_neighbours_by_rotation(vlm: Qwen2VLForConditionalGeneration, gain: float = 2.2) -> None:
    """Let each head of the tower's first layers look at one neighbouring patch, as a convolution would.

    Queries and keys are constant at first, so that their product depends on the rotary positions alone: it is largest
    where the key's patch lies at the head's offset from the query's.
    """
    tower = vlm.model.visual
    size = TOWER_WIDTH // HEADS
    quarter = size // 4  # frequencies per axis; rows come first
    frequency = 10_000.0 ** (-torch.arange(quarter) / quarter)
    for block, offsets in zip(tower.blocks, OFFSETS, strict=False):  # further layers keep their weights
        qkv = block.attn.qkv
        qkv.weight[: 2 * TOWER_WIDTH] *= 0.3
        for head, (columns, rows) in enumerate(offsets):
            angles = torch.cat([frequency * rows, frequency * columns])
            query = torch.cat([angles.cos(), angles.sin()])
            key = torch.cat([torch.ones(2 * quarter), torch.zeros(2 * quarter)])
            first = head * size
            qkv.bias[first : first + size] = gain * query
            qkv.bias[TOWER_WIDTH + first : TOWER_WIDTH + first + size] = gain * key


@torch.no_grad()
def whiten_qwen_patches(vlm: Qwen2VLForConditionalGeneration, pixels: Tensor, floor: float = 0.05) -> None:
    """Set the patch embedding to the whitened principal components of patches (see ``vision_tower.whiten_patches``).

    Args:
        pixels: normalised pictures, float [B, 3, 64, 64]; flat patches are left out.
    """
    weight = vlm.model.visual.patch_embed.proj.weight  # [width, 3, frames, 8, 8]
    filters, _ = whitening_filters(pixels, weight.shape[0], floor)
    count = len(filters)
    frames = weight.shape[2]
    weight[:count] = filters.reshape(count, 3, 1, PATCH, PATCH).expand(-1, -1, frames, -1, -1) / frames


def tower_inputs(images: Tensor) -> tuple[Tensor, Tensor]:
    """Flat patches [B · 64, 3 · 2 · 8 · 8] of normalised pictures [B, 3, 64, 64], and their grids [B, 3]."""
    side = SIZE // PATCH
    cut = images.reshape(len(images), 3, side, PATCH, side, PATCH).permute(0, 2, 4, 1, 3, 5)
    frames = cut.unsqueeze(4).expand(*cut.shape[:4], 2, PATCH, PATCH)
    grids = torch.tensor([[1, side, side]] * len(images))
    return frames.reshape(len(images) * side * side, -1), grids


def rotary_positions(before: int, length: int, after: Tensor) -> Tensor:
    """Positions [3, B, before + 64 + L] of Qwen's multimodal rotary embedding (time, row, column).

    Args:
        before: tokens before the image.
        length: image tokens.
        after: positions [B, L] of the text after the image, counted from the end of the image.
    """
    side = math.isqrt(length)
    place = torch.arange(length)
    image = torch.stack([torch.zeros(length, dtype=torch.long), place // side, place % side]) + before
    text = torch.arange(before).expand(3, -1)
    prefix = torch.cat([text, image], 1)[:, None].expand(-1, len(after), -1)
    return torch.cat([prefix, (after + before + side)[None].expand(3, -1, -1)], 2)


def save_qwen(folder: Path, vlm: Qwen2VLForConditionalGeneration) -> None:
    """Write a ``Qwen2VLForConditionalGeneration`` folder with its tokenizer and image processor."""
    shutil.rmtree(folder, ignore_errors=True)
    half(vlm, new_qwen()).save_pretrained(folder)
    qwen_tokenizer().save_pretrained(folder)
    pixels = SIZE * SIZE
    Qwen2VLImageProcessor(
        size={"shortest_edge": pixels, "longest_edge": pixels}, patch_size=PATCH, merge_size=1
    ).save_pretrained(folder)
    declare_float32(folder)
