"""Images as PNG bytes and as tensors."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from noisesmith.pipeline.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """``[B, H, W, 3]`` uint8 on the CPU of images ``[B, 3, H, W]`` in [0, 1], rounded as the scorers round them."""
    return _levels(images).permute(0, 2, 3, 1).contiguous().cpu()


def extreme_levels(images: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value ``[B, 3]`` of each channel in :func:`to_uint8`, which is not computed for it."""
    values = images.detach().flatten(2)
    return _levels(values.amin(2)).cpu(), _levels(values.amax(2)).cpu()


def _levels(values: Tensor) -> Tensor:
    """The grey levels 0–255 of values in [0, 1]."""
    return torch.floor(values.detach().double() * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def to_float(pixels: Tensor) -> Tensor:
    """``[3, H, W]`` float32 in [0, 1] of ``[H, W, 3]`` uint8."""
    return pixels.permute(2, 0, 1).float() / 255


def encode_png(image: Tensor) -> bytes:
    """PNG bytes of one ``[H, W, 3]`` uint8 image."""
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(data: bytes) -> Tensor:
    """``[3, H, W]`` float32 in [0, 1] of PNG bytes."""
    import numpy as np

    pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return to_float(torch.from_numpy(pixels))
