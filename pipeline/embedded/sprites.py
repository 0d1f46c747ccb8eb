"""The 24 pictures of the embedded world, as shipped in ``sprites.safetensors``, and their tinting.

The file holds one uint8 RGBA array per noun, cropped to what is visible. All but the bench and the clock come from Noto
Color Emoji (Google, OFL-1.1). ``training/draw_sprites.py`` makes the file.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors import safe_open

from noisesmith.pipeline.embedded.grammar import NOUNS

FILE = Path(__file__).with_name("sprites.safetensors")
# Each colour as (dark, middle, light): what the sprite's darkest, median and lightest parts become.
TINTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((110, 0, 10), (222, 22, 32), (255, 110, 105)),
    "purple": ((58, 10, 92), (132, 44, 190), (190, 130, 235)),
    "yellow": ((150, 112, 0), (250, 216, 20), (255, 244, 140)),
    "gray": ((62, 62, 62), (128, 128, 128), (176, 176, 176)),
    "white": ((186, 186, 186), (246, 246, 246), (255, 255, 255)),
    "green": ((0, 72, 16), (24, 152, 50), (120, 214, 130)),
    "blue": ((4, 26, 120), (24, 84, 226), (120, 170, 255)),
    "orange": ((150, 62, 0), (252, 132, 10), (255, 190, 100)),
    "black": ((0, 0, 0), (26, 26, 26), (84, 84, 84)),
    "brown": ((56, 26, 6), (122, 68, 26), (178, 120, 74)),
    "pink": ((176, 60, 116), (252, 142, 192), (255, 200, 226)),
}
OUTLINE = np.array((66, 66, 74), np.float32)  # of white things, which would be lost on a light background
# The hands and marks of a clock: white on dark colours and black on light ones, so that they can always be seen.
HANDS = {colour: 20 if sum(shades[1]) > 400 else 255 for colour, shades in TINTS.items()}
_LUMINANCE = np.array((0.299, 0.587, 0.114), np.float32)

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@lru_cache(maxsize=1)
def _stored() -> dict[str, Pixels]:
    with safe_open(str(FILE), "numpy") as file:
        return {noun: file.get_tensor(noun) for noun in NOUNS}


def aspect(noun: str) -> tuple[float, float]:
    """Width and height of a sprite relative to its longest side, each in (0, 1]."""
    height, width = _stored()[noun].shape[:2]
    longest = max(width, height)
    return width / longest, height / longest


@lru_cache(maxsize=4096)
def sprite(noun: str, colour: str | None, size: int) -> Floats:
    """The sprite of ``noun``, its longest side ``size`` pixels, things tinted in ``colour``.

    Returns:
        float32 [h, w, 4], RGBA in 0..1, colours not premultiplied.
    """
    rgba = _stored()[noun]
    if colour is not None:
        rgba = tint(rgba, noun, colour)
    width, height = aspect(noun)
    scaled = (max(1, round(size * width)), max(1, round(size * height)))
    # "RGBa" has premultiplied colours, so that transparent pixels do not bleed into the edge when scaled.
    small = Image.fromarray(rgba).convert("RGBa").resize(scaled, Image.Resampling.LANCZOS)
    return np.asarray(small.convert("RGBA"), np.float32) / np.float32(255)


@lru_cache(maxsize=512)
def mean_colour(noun: str, colour: str | None) -> tuple[float, float, float]:
    """RGB in 0..1 of a sprite inside its outline: the middle shade of its tint, or the mean of its pixels."""
    if colour is not None:
        red, green, blue = TINTS[colour][1]
        return red / 255, green / 255, blue / 255
    rgba = _stored()[noun].astype(np.float32) / 255
    shown = rgba[rgba[..., 3] > 0.5, :3].mean(0)
    return float(shown[0]), float(shown[1]), float(shown[2])


def tint(rgba: Pixels, noun: str, colour: str) -> Pixels:
    """Recolour uint8 RGBA [h, w, 4] by luminance: dark, median and light parts take the colour's three shades."""
    luminance = rgba[..., :3].astype(np.float32) @ _LUMINANCE
    low, middle, high = np.percentile(luminance[rgba[..., 3] > 128], (3, 50, 97))
    knots = (low, max(middle, low + 12), max(high, middle + 24))
    shades = np.array(TINTS[colour], np.float32)
    if noun == "clock":
        shades[2] = HANDS[colour]
    tinted = np.stack([np.interp(luminance, knots, shades[:, channel]) for channel in range(3)], -1)
    outline = OUTLINE if colour == "white" else shades[0] * 0.8
    alpha = Image.fromarray(rgba[..., 3])
    inside = np.asarray(alpha.filter(ImageFilter.MinFilter(5 if colour == "white" else 3)), np.float32)[..., None] / 255
    outlined = tinted * inside + outline * (1 - inside)
    return np.concatenate([outlined.round().astype(np.uint8), rgba[..., 3:]], -1)
