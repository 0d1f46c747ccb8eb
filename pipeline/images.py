"""Images as PNG bytes and as tensors."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """``[B, H, W, 3]`` uint8 on the CPU of images ``[B, 3, H, W]`` in [0, 1], rounded as the scorers round them."""
    levels = torch.floor(images.detach().double() * 255 + 0.5).clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def encode_png(image: Tensor) -> bytes:
    """PNG bytes of one ``[H, W, 3]`` uint8 image."""
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(data: bytes) -> Tensor:
    """``[3, H, W]`` float32 in [0, 1] of PNG bytes."""
    import numpy as np

    pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
