"""Draw the sprites of the embedded world from an emoji font and write ``sprites.safetensors``.

``python -m noisesmith.pipeline.embedded.training.draw_sprites NotoColorEmoji.ttf`` makes the shipped file again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import save_file

from noisesmith.pipeline.embedded.grammar import COLOURS, NOUNS, THINGS
from noisesmith.pipeline.embedded.sprites import FILE, Pixels, sprite

STORED = 64  # longest side of a stored sprite, pixels
FONT_SIZE = 109  # the only size of Noto Color Emoji's bitmaps
GLYPHS = {
    "cat": "🐱", "dog": "🐶", "bird": "🐦", "bear": "🐻", "lion": "🦁", "horse": "🐴", "elephant": "🐘", "monkey": "🐵",
    "frog": "🐸", "turtle": "🐢", "rabbit": "🐰", "mouse": "🐭", "backpack": "🎒", "glasses": "🕶", "crown": "👑",
    "suitcase": "💼", "chair": "🪑", "balloon": "🎈", "bow": "🎀", "car": "🚗", "bowl": "🥣", "apple": "🍎",
}  # fmt: skip
# Thin shapes are widened, so that their colour still shows at 24 pixels.
STRETCH = {"glasses": (1.0, 1.5), "chair": (1.3, 1.0)}
# Light fur is darkened by these factors of RGB, so that it stands out from a light background.
FUR = {"elephant": (0.64, 0.68, 0.78), "rabbit": (0.84, 0.66, 0.50), "mouse": (0.78, 0.78, 0.82)}


def build(font_path: str, out: Path = FILE) -> None:
    """Draw all sprites from the emoji font at ``font_path`` and write them to ``out``."""
    font = ImageFont.truetype(font_path, FONT_SIZE)
    arrays = {"bench": _crop(_bench()), "clock": _crop(_clock())}
    for noun, glyph in GLYPHS.items():
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((8, 8), glyph, font=font, embedded_color=True)
        arrays[noun] = _crop(canvas, STRETCH.get(noun, (1.0, 1.0)))
    for noun, factors in FUR.items():
        arrays[noun] = (arrays[noun] * np.array((*factors, 1.0))).round().astype(np.uint8)
    metadata = {
        "command": "python -m noisesmith.pipeline.embedded.training.draw_sprites NotoColorEmoji.ttf",
        "source": "Noto Color Emoji 2.042, Google LLC (Debian fonts-noto-color-emoji); bench and clock drawn here",
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
            height, width = rgba.shape[:2]
            top, left = row * cell, column * cell
            view = canvas[top : top + height, left : left + width]
            alpha = rgba[..., 3:]
            view[:] = view * (1 - alpha) + rgba[..., :3] * alpha
    image = Image.fromarray((canvas.clip(0, 1) * 255).astype(np.uint8))
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def _crop(image: Image.Image, stretch: tuple[float, float] = (1.0, 1.0)) -> Pixels:
    """The visible part, stretched and scaled to ``STORED`` pixels on its longest side."""
    visible = image.getchannel("A").point(lambda alpha: 255 if alpha > 24 else 0).getbbox()
    image = image.crop(visible)
    width = image.width * stretch[0]
    height = image.height * stretch[1]
    scale = STORED / max(width, height)
    size = (round(width * scale), round(height * scale))
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


def _clock() -> Image.Image:
    """A wall clock at three: a dark rim, a face, and in the lightest shade four broad marks and two broad hands."""
    image = Image.new("RGBA", (256, 256))
    draw = ImageDraw.Draw(image)
    draw.ellipse((0, 0, 255, 255), fill=(30, 30, 30, 255))
    draw.ellipse((24, 24, 231, 231), fill=(128, 128, 128, 255))
    light = (250, 250, 250, 255)
    for left, top in ((116, 32), (116, 196), (32, 116), (196, 116)):
        draw.rectangle((left, top, left + 23, top + 27 if left == 116 else top + 23), fill=light)
    draw.line((128, 140, 128, 64), fill=light, width=30)
    draw.line((113, 128, 188, 128), fill=light, width=30)
    return image


if __name__ == "__main__":
    build(sys.argv[1])
