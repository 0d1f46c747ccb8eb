"""How the vision tower starts, so that it learns shapes in minutes.

CLIP's own start reads colours at once and shapes only after very long: patch contents drown the positions, and flat
colour drowns the shapes. Both are cured at the start, with no change to the architecture.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

PATCH = 8
OFFSETS = (
    ((1, 0), (-1, 0), (0, 1), (0, -1)),
    ((1, 1), (-1, -1), (1, -1), (-1, 1)),
    ((2, 0), (-2, 0), (0, 2), (0, -2)),
)


@torch.no_grad()
def see_neighbours(tower: Any, waves: int = 4, gain: float = 1.7) -> None:
    """Start a vision tower as a convolution would: each head of the first layers looks at one neighbouring patch.

    With the library's own start, patch contents drown the positions and the tower reads colours but no shapes for
    thousands of steps. Here the first ``4 * waves`` channels hold sines and cosines of row and column, and queries and
    keys of a head are rotations of them that match at the head's offset (after ConViT, arXiv 2103.10697).
    """
    embeddings, layers = tower.embeddings, tower.encoder.layers
    side = round((embeddings.position_embedding.weight.shape[0] - 1) ** 0.5)
    frequency = 2 * math.pi * torch.arange(1, waves + 1) / (2 * side)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    features = []
    for place in (column, row):
        angle = place.flatten()[:, None] * frequency
        features += [angle.cos(), angle.sin()]
    channels = 4 * waves
    embeddings.patch_embedding.weight[:channels] = 0
    embeddings.position_embedding.weight[1:, :channels] = 0.5 * torch.cat(features, 1)
    for layer, offsets in zip(layers, OFFSETS, strict=False):
        attention = layer.self_attn
        size = attention.q_proj.weight.shape[0] // len(offsets)
        for head, offset in enumerate(offsets):
            query = torch.zeros(size, channels)
            for axis, shift in enumerate(offset):
                for wave in range(waves):
                    cos, sin = (2 * axis * waves + wave, (2 * axis + 1) * waves + wave)
                    a = float(frequency[wave] * shift)
                    query[cos, cos], query[cos, sin] = math.cos(a), -math.sin(a)
                    query[sin, cos], query[sin, sin] = math.sin(a), math.cos(a)
            rows = slice(head * size, (head + 1) * size)
            attention.q_proj.weight[rows, :channels] = gain * query
            attention.k_proj.weight[rows, :channels] = gain * torch.eye(size, channels)


@torch.no_grad()
def whiten_patches(tower: Any, pixels: Tensor, skip: int = 16, floor: float = 0.05) -> None:
    """Start the patch embedding as the whitened principal components of patches.

    The flat colour of a patch has some hundred times the variance of its shapes. Unwhitened, a tower names animals
    (by their colours) at once, and tinted things, which differ by shape alone, not for a very long time.

    Args:
        pixels: normalised pictures, float [B, 3, 64, 64]; patches that are flat are left out.
        skip: channels at the front that hold positions.
    """
    weight = tower.embeddings.patch_embedding.weight
    patches = nn.functional.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    patches = patches[patches.std(1) > 0.3]
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    count = weight.shape[0] - skip
    filters = (vectors[:, -count:] / (values[-count:] + floor).sqrt()).T * 0.4
    weight[skip:] = filters.reshape(count, 3, PATCH, PATCH)
    tower.embeddings.position_embedding.weight[1:, skip:] = -(filters @ mean)
