"""Small pictures for a page: WebP within a limit of bytes, whatever the image shows."""

from __future__ import annotations

import io

from PIL import Image

SIDE = 256  # pixels of the longer side; smaller images keep their size
LIMIT = 8 * 1024  # bytes
LEAST = 1024  # below this limit a picture shows nothing
_QUALITIES = (80, 60, 40, 20)
_SHRINK = 0.7


def thumbnail(picture: Image.Image, limit: int = LIMIT) -> bytes:
    """Return an image as WebP of at most ``limit`` bytes.

    Quality goes first, then size: an image of pure noise becomes small rather than too large.

    Args:
        limit: at least ``LEAST``.
    """
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    while True:
        for quality in _QUALITIES:
            encoded = _webp(small, quality)
            if len(encoded) <= limit:
                return encoded
        width = max(1, round(small.width * _SHRINK))
        height = max(1, round(small.height * _SHRINK))
        small = small.resize((width, height), Image.Resampling.LANCZOS)


def _webp(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
