"""z_0 → pixels: the generator's VAE, kept beside the scorer so that images need not travel."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError, reason
from pipeline.models import ModelSource


class Decoder:
    """``AutoencoderKL`` of the generator's model, frozen."""

    def __init__(self, source: ModelSource, dtype: torch.dtype, device: str) -> None:
        from diffusers import AutoencoderKL

        try:
            vae = AutoencoderKL.from_pretrained(
                source.location,
                subfolder="vae",
                revision=source.revision,
                dtype=dtype,
                local_files_only=source.local,
            )
        except Exception as error:  # as in the generators' loaders
            raise UserError(f"generators.model: the vae of {source.id!r} cannot be loaded ({reason(error)})") from error
        self.vae: Any = vae.to(device).eval().requires_grad_(False)

    def __call__(self, latents: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` in [0, 1] of z_0 ``[B, C, h, w]``; differentiable where not clamped."""
        latents = latents.to(self.vae.device, self.vae.dtype) / self.vae.config.scaling_factor
        shift = getattr(self.vae.config, "shift_factor", None)
        decoded = self.vae.decode(latents + shift if shift else latents, return_dict=False)[0]
        return (decoded / 2 + 0.5).clamp(0, 1)


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
