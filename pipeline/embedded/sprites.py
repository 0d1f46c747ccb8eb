"""The 24 pictures of the embedded world, as shipped in ``sprites.safetensors``, and their tinting.

The file holds one uint8 RGBA array a noun, cropped to what is visible. All but the bench (drawn here) come from
Noto Color Emoji (Google, OFL-1.1). ``python -m noisesmith.pipeline.embedded.sprites FONT`` rebuilds it.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from safetensors import safe_open
from safetensors.numpy import save_file

from noisesmith.pipeline.embedded.grammar import COLOURS, NOUNS, THINGS

FILE = Path(__file__).with_name("sprites.safetensors")
STORED = 64  # longest side of a stored sprite, pixels
GLYPHS = {
    "cat": "🐱", "dog": "🐶", "bird": "🐦", "bear": "🐻", "lion": "🦁", "horse": "🐴", "elephant": "🐘", "monkey": "🐵",
    "frog": "🐸", "turtle": "🐢", "rabbit": "🐰", "mouse": "🐭", "backpack": "🎒", "glasses": "🕶", "crown": "👑",
    "suitcase": "💼", "chair": "🪑", "balloon": "🎈", "bow": "🎀", "car": "🚗", "bowl": "🥣", "clock": "🕒",
    "apple": "🍎",
}  # fmt: skip
# Thin shapes are widened, so that their colour still shows at 24 pixels.
STRETCH = {"glasses": (1, 1.5), "chair": (1.3, 1)}
# Each colour as (dark, middle, light): what the sprite's darkest, median and lightest parts become.
TINTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((110, 0, 10), (222, 22, 32), (255, 110, 105)),
    "purple": ((58, 10, 92), (132, 44, 190), (190, 130, 235)),
    "yellow": ((150, 112, 0), (250, 216, 20), (255, 244, 140)),
    "gray": ((62, 62, 62), (128, 128, 128), (176, 176, 176)),
    "white": ((150, 150, 150), (246, 246, 246), (255, 255, 255)),
    "green": ((0, 72, 16), (24, 152, 50), (120, 214, 130)),
    "blue": ((4, 26, 120), (24, 84, 226), (120, 170, 255)),
    "orange": ((150, 62, 0), (252, 132, 10), (255, 190, 100)),
    "black": ((0, 0, 0), (26, 26, 26), (84, 84, 84)),
    "brown": ((56, 26, 6), (122, 68, 26), (178, 120, 74)),
    "pink": ((176, 60, 116), (252, 142, 192), (255, 200, 226)),
}
OUTLINE = np.array((110, 110, 110), np.float32)


@lru_cache(maxsize=1)
def _stored() -> dict[str, np.ndarray]:
    with safe_open(str(FILE), "numpy") as file:
        return {noun: file.get_tensor(noun) for noun in NOUNS}


def aspect(noun: str) -> tuple[float, float]:
    """Width and height of a sprite relative to its longest side, each in (0, 1]."""
    height, width = _stored()[noun].shape[:2]
    return width / max(width, height), height / max(width, height)


@lru_cache(maxsize=4096)
def sprite(noun: str, colour: str | None, size: int) -> np.ndarray:
    """The sprite of ``noun``, its longest side ``size`` pixels, things tinted in ``colour``.

    Returns:
        float32 [h, w, 4], RGBA in 0..1, colours not premultiplied.
    """
    rgba = _stored()[noun]
    if colour is not None:
        rgba = tint(rgba, colour)
    width, height = aspect(noun)
    image = Image.fromarray(rgba).convert("RGBa")
    small = image.resize((max(1, round(size * width)), max(1, round(size * height))), Image.Resampling.LANCZOS)
    return np.asarray(small.convert("RGBA"), np.float32) / 255


def tint(rgba: np.ndarray, colour: str) -> np.ndarray:
    """Recolour uint8 RGBA [h, w, 4] by luminance: dark, median and light parts take the colour's three shades."""
    luminance = rgba[..., :3].astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32)
    low, middle, high = np.percentile(luminance[rgba[..., 3] > 128], (3, 50, 97))
    shades = np.array(TINTS[colour], np.float32)
    knots = (low, max(middle, low + 12), max(high, middle + 24))
    out = np.stack([np.interp(luminance, knots, shades[:, c]) for c in range(3)], -1)
    inside = Image.fromarray(rgba[..., 3])
    eroded = np.asarray(inside.filter(ImageFilter.MinFilter(3)), np.float32)[..., None] / 255
    out = out * eroded + (OUTLINE if colour == "white" else shades[0] * 0.8) * (1 - eroded)
    return np.concatenate([out.round().astype(np.uint8), rgba[..., 3:]], -1)


def _crop(image: Image.Image, stretch: tuple[float, float] = (1, 1)) -> np.ndarray:
    box = image.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox()
    image = image.crop(box)
    wide, tall = image.width * stretch[0], image.height * stretch[1]
    scale = STORED / max(wide, tall)
    size = (round(wide * scale), round(tall * scale))
    return np.asarray(image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA"))


def _bench() -> Image.Image:
    """A park bench seen from the front: a slatted back, a seat, two legs."""
    image = Image.new("RGBA", (256, 170))
    draw = ImageDraw.Draw(image)
    for x in (26, 202):
        draw.rectangle((x, 20, x + 28, 170), fill=(100, 60, 20, 255))
    for y, height, shade in ((0, 36, 170), (48, 36, 170), (96, 40, 200)):
        draw.rounded_rectangle((0, y, 256, y + height), 6, fill=(shade, shade - 40, shade - 80, 255))
    return image


def build(font_path: str, out: Path = FILE) -> None:
    """Draw all sprites from the emoji font at ``font_path`` and write them to ``out``."""
    font = ImageFont.truetype(font_path, 109)
    arrays = {"bench": _crop(_bench())}
    for noun, glyph in GLYPHS.items():
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((8, 8), glyph, font=font, embedded_color=True)
        arrays[noun] = _crop(canvas, STRETCH.get(noun, (1, 1)))
    metadata = {
        "command": "python -m noisesmith.pipeline.embedded.sprites NotoColorEmoji.ttf",
        "source": "Noto Color Emoji 2.042, Google LLC (Debian fonts-noto-color-emoji); bench drawn for this project",
        "licence": "OFL-1.1",
    }
    save_file({noun: np.ascontiguousarray(arrays[noun]) for noun in NOUNS}, str(out), metadata)


def sheet(size: int = 25, zoom: int = 2) -> Image.Image:
    """A picture of every sprite in every colour, for looking at."""
    cell = size + 3
    canvas = np.full((cell * len(NOUNS), cell * len(COLOURS), 3), 0.86, np.float32)
    for row, noun in enumerate(NOUNS):
        for column, colour in enumerate(COLOURS):
            rgba = sprite(noun, colour if noun in THINGS else None, size)
            h, w = rgba.shape[:2]
            view = canvas[row * cell : row * cell + h, column * cell : column * cell + w]
            view[:] = view * (1 - rgba[..., 3:]) + rgba[..., :3] * rgba[..., 3:]
    image = Image.fromarray((canvas.clip(0, 1) * 255).astype(np.uint8))
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


if __name__ == "__main__":
    build(sys.argv[1])
