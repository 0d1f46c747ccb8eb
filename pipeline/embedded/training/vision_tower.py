"""The vision tower's first weights, chosen so that it learns shapes in minutes.

With CLIP's own first weights it reads colours at once and shapes only after very long: patch contents are much stronger
than positions, and flat colour is much stronger than shapes. Other first weights solve both, with the same
architecture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

PATCH = 8
# The neighbouring patch (columns, rows) that each of four heads looks at, layer by layer.
OFFSETS = (
    ((1, 0), (-1, 0), (0, 1), (0, -1)),
    ((1, 1), (-1, -1), (1, -1), (-1, 1)),
    ((2, 0), (-2, 0), (0, 2), (0, -2)),
)


@torch.no_grad()
def see_neighbours(tower: CLIPVisionModel, waves: int = 4, gain: float = 1.7) -> None:
    """Let each head of the first layers look at one neighbouring patch, as a convolution would.

    The first ``4 * waves`` channels hold sines and cosines of row and column, and queries and keys of a head are
    rotations of them that match at the head's offset (after ConViT, arXiv 2103.10697).
    """
    embeddings = tower.embeddings
    side = round((embeddings.position_embedding.weight.shape[0] - 1) ** 0.5)
    frequency = 2 * math.pi * torch.arange(1, waves + 1) / (2 * side)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    features: list[Tensor] = []
    for coordinate in (column, row):
        angle = coordinate.flatten()[:, None] * frequency
        features += [angle.cos(), angle.sin()]
    channels = 4 * waves
    embeddings.patch_embedding.weight[:channels] = 0
    embeddings.position_embedding.weight[1:, :channels] = 0.5 * torch.cat(features, 1)
    for layer, offsets in zip(tower.encoder.layers, OFFSETS, strict=False):  # further layers keep their weights
        attention = layer.self_attn
        size = attention.q_proj.weight.shape[0] // len(offsets)
        for head, offset in enumerate(offsets):
            rows = slice(head * size, (head + 1) * size)
            attention.q_proj.weight[rows, :channels] = gain * _shifted_query(size, frequency, offset)
            attention.k_proj.weight[rows, :channels] = gain * torch.eye(size, channels)


def _shifted_query(size: int, frequency: Tensor, offset: tuple[int, int]) -> Tensor:
    """The map [size, 4·waves] from a patch's sines and cosines to those of the patch at ``offset``."""
    waves = len(frequency)
    query = torch.zeros(size, 4 * waves)
    for axis, shift in enumerate(offset):
        for wave in range(waves):
            cos = 2 * axis * waves + wave
            sin = (2 * axis + 1) * waves + wave
            angle = float(frequency[wave] * shift)
            query[cos, cos] = math.cos(angle)
            query[cos, sin] = -math.sin(angle)
            query[sin, cos] = math.sin(angle)
            query[sin, sin] = math.cos(angle)
    return query


@torch.no_grad()
def whiten_patches(tower: CLIPVisionModel, pixels: Tensor, skip: int = 16, floor: float = 0.05) -> None:
    """Set the patch embedding to the whitened principal components of patches.

    The flat colour of a patch has some hundred times the variance of its shapes. Unwhitened, a tower names animals
    (by their colours) at once, but tinted things, which differ by shape only, not for a very long time.

    Args:
        pixels: normalised pictures, float [B, 3, 64, 64]; flat patches are left out.
        skip: channels at the front that hold positions.
        floor: added to every variance, so that components with little signal are not amplified without limit.
    """
    weight = tower.embeddings.patch_embedding.weight
    filters, mean = whitening_filters(pixels, weight.shape[0] - skip, floor)
    weight[skip:] = filters.reshape(-1, 3, PATCH, PATCH)
    tower.embeddings.position_embedding.weight[1:, skip:] = -(filters @ mean)


def whitening_filters(pixels: Tensor, count: int, floor: float) -> tuple[Tensor, Tensor]:
    """At most ``count`` whitened principal components [N, 192] of patches, and the patches' mean [192].

    Args:
        pixels, floor: as for :func:`whiten_patches`.
    """
    patches = nn.functional.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    patches = patches[patches.std(1) > 0.3]
    mean = patches.mean(0)
    covariance = (patches - mean).T @ (patches - mean) / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors[:, -count:] / (values[-count:] + floor).sqrt()).T * 0.4, mean
