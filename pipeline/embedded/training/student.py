"""The vision-language model in training, and its dense losses: what lies on every patch of the picture.

Each projected patch token is pulled towards the language model's own word embeddings of the noun and the colour there,
and linear heads, which are discarded after training, read the other object and its direction from it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2VLForConditionalGeneration
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from noisesmith.pipeline.embedded.geometry import SIZE, half_extent
from noisesmith.pipeline.embedded.grammar import COLOURS, NOUNS
from noisesmith.pipeline.embedded.training.architectures import new_vlm
from noisesmith.pipeline.embedded.training.data import pictures
from noisesmith.pipeline.embedded.training.packing import NO_TARGET, Words
from noisesmith.pipeline.embedded.training.qwen import new_qwen, tower_inputs, whiten_qwen_patches
from noisesmith.pipeline.embedded.training.scenes import Item, Scene, sample
from noisesmith.pipeline.embedded.training.vision_tower import PATCH, whiten_patches

GRID = SIZE // PATCH
BACKGROUND = len(NOUNS)
DIRECTIONS = ("none", "left", "right", "on it", "far above", "below it", "far below", "worn")
JOIN_OF = torch.tensor([0, 1, 1, 2, 3, 4, 5, 6])  # by direction, the index of its word among packing's ``SPOKEN``
EMBEDDING_WEIGHTS = {"noun": 1.5, "colour": 0.7, "join": 1.0}
HEAD_WEIGHTS = {"noun": 0.5, "colour": 0.5, "other_noun": 0.3, "other_colour": 0.3, "direction": 0.3}


def normalised(images: Tensor) -> Tensor:
    """CLIP's mean and deviation applied to float [B, 3, 64, 64] in 0..1."""
    mean = torch.tensor(OPENAI_CLIP_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(OPENAI_CLIP_STD, device=images.device)[:, None, None]
    return (images - mean) / std


def patch_tokens(vlm: PreTrainedModel, images: Tensor) -> Tensor:
    """Projected patch tokens [B, 64, width] of float [B, 3, 64, 64] in 0..1."""
    if isinstance(vlm, Qwen2VLForConditionalGeneration):
        patches, grids = tower_inputs(normalised(images))
        merged: Tensor = vlm.model.visual(patches, grid_thw=grids).pooler_output
        return merged.reshape(len(images), -1, merged.shape[-1])
    hidden = vlm.model.vision_tower(normalised(images), output_hidden_states=True).hidden_states[-1]
    tokens: Tensor = vlm.model.multi_modal_projector(hidden[:, 1:])
    return tokens


class Student(nn.Module):
    """The model with the heads that exist only while training; ``kind`` is ``llava`` or ``qwen``."""

    def __init__(self, kind: str = "llava") -> None:
        super().__init__()
        self.kind = kind
        rng = random.Random(0)
        renders = normalised(pictures([sample(rng) for _ in range(1000)]))
        self.vlm: PreTrainedModel
        if kind == "qwen":
            self.vlm = new_qwen()
            whiten_qwen_patches(self.vlm, renders)
        else:
            self.vlm = new_vlm()
            whiten_patches(self.vlm.model.vision_tower, renders)
        width = self.vlm.config.text_config.hidden_size
        self.heads = nn.ModuleDict(
            {
                "noun": nn.Linear(width, len(NOUNS) + 1),
                "colour": nn.Linear(width, len(COLOURS)),
                "other_noun": nn.Linear(width, len(NOUNS)),
                "other_colour": nn.Linear(width, len(COLOURS)),
                "direction": nn.Linear(width, len(DIRECTIONS)),
            }
        )
        self.verdict = nn.Linear(width, 2)

    def patches(self, images: Tensor) -> Tensor:
        """Projected patch tokens [B, 64, width] of float [B, 3, 64, 64] in 0..1."""
        return patch_tokens(self.vlm, images)


def dense_labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """What lies on each patch: int64 [B, 64] per head, −100 where there is nothing to say."""
    labels = {name: torch.full((len(scenes), GRID, GRID), NO_TARGET) for name in HEAD_WEIGHTS}
    labels["noun"].fill_(BACKGROUND)
    for number, scene in enumerate(scenes):
        maps = {name: label[number] for name, label in labels.items()}
        # In drawing order, so that where two objects overlap the upper one is named.
        for index in reversed(range(len(scene.items))):
            _label_item(scene, index, maps)
    return {name: label.flatten(1) for name, label in labels.items()}


def _label_item(scene: Scene, index: int, maps: dict[str, Tensor]) -> None:
    """Write one item into the maps [8, 8] of its scene, in place."""
    item = scene.items[index]
    half_width, half_height = half_extent(item)
    centres = (torch.arange(GRID) + 0.5) * PATCH
    dx = (centres - item.x).abs()[None]
    dy = (centres - item.y).abs()[:, None]
    # The patches whose centre is in the item's box, and at least one patch of a thin item.
    inside = (dy <= max(half_height, 4.1)) & (dx <= max(half_width, 4.1))
    # A patch that the item only touches is neither it nor background.
    edge = ~inside & (dy <= half_height + 3.9) & (dx <= half_width + 3.9)
    maps["noun"][edge & (maps["noun"] == BACKGROUND)] = NO_TARGET
    maps["noun"][inside] = NOUNS.index(item.noun)
    maps["colour"][inside] = _colour_label(item)
    if len(scene.items) == 2:
        other = scene.items[1 - index]
        maps["other_noun"][inside] = NOUNS.index(other.noun)
        maps["other_colour"][inside] = _colour_label(other)
        maps["direction"][inside] = DIRECTIONS.index(_direction(item, other, scene.layout))
    elif len(scene.items) == 1:
        maps["direction"][inside] = DIRECTIONS.index("none")


def _colour_label(item: Item) -> int:
    return NO_TARGET if item.colour is None else COLOURS.index(item.colour)


def _direction(item: Item, other: Item, layout: str) -> str:
    """Where the other object is, as seen from ``item``."""
    if layout == "with":
        return "worn"
    if layout == "and":
        return "right" if other.x > item.x else "left"
    upper = other.y < item.y
    if layout == "on":
        return "on it" if upper else "below it"
    return "far above" if upper else "far below"


def dense_loss(
    student: Student, tokens: Tensor, scenes: Sequence[Scene], words: Words
) -> tuple[Tensor, dict[str, float]]:
    """Word-embedding and linear-head losses of patch tokens [B, 64, width], and the heads' accuracies."""
    labels = dense_labels(scenes)
    labels["join"] = torch.where(labels["direction"] < 0, NO_TARGET, JOIN_OF[labels["direction"].clamp(min=0)])
    table = F.normalize(student.vlm.get_input_embeddings().weight, dim=-1)
    direction = F.normalize(tokens, dim=-1)
    rows = {"noun": words.nouns, "colour": words.colours, "join": words.joins}
    loss = tokens.new_zeros(())
    for name, weight in EMBEDDING_WEIGHTS.items():
        logits = 12 * direction @ table[rows[name]].T
        loss = loss + weight * F.cross_entropy(logits.transpose(1, 2), labels[name])
    metrics: dict[str, float] = {}
    for name, head in student.heads.items():
        logits = head(tokens)
        loss = loss + HEAD_WEIGHTS[name] * F.cross_entropy(logits.transpose(1, 2), labels[name])
        with torch.no_grad():
            known = (labels[name] >= 0) & (labels[name] < BACKGROUND)
            right = logits.argmax(-1) == labels[name]
            metrics[name] = right[known].float().mean().item()
    return loss, metrics
