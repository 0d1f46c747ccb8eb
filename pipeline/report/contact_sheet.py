"""A picture of a run: first and kept images side by side, with their prompts and scores."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from noisesmith.pipeline.storage.files import write_atomic

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER, INK, FAINT, TRACK = "#fbfaf7", "#23262b", "#8a8f98", "#e6e4de"
LOW, HIGH = (214, 122, 84), (52, 138, 106)  # a bar's colour at score 0 and 1
YES, NO = "#348a6a", "#c4593b"
TILE, PAIR_GAP, GUTTER, MARGIN, COLUMNS = 192, 28, 44, 52, 4
CAPTION_LINES, CAPTION_STEP = 2, 26
HEADER, SCORE_BLOCK, ROW_GAP = 96, 40, 38
CELL = 2 * TILE + PAIR_GAP
TITLE_SIZE, CAPTION_SIZE, SCORE_SIZE, LEGEND_SIZE = 34, 20, 18, 18
MAX_MARKS = 4


def write_contact_sheet(path: Path, rows: Iterable[Mapping[str, Any]], limit: int = 24) -> None:
    """Draw up to ``limit`` rows as a PNG at ``path``, which appears whole or not at all.

    A row holds ``prompt``, ``image`` and, where kept, ``image_initial`` as encoded bytes, ``score``,
    ``score_initial``, and any number of ``judge_NAME`` and ``judge_NAME_initial`` (null where a judge cannot tell).
    """
    buffer = io.BytesIO()
    draw_contact_sheet(list(islice(rows, limit))).save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())


def draw_contact_sheet(rows: list[Mapping[str, Any]]) -> Image.Image:
    """The sheet as an RGB image: ``rows`` in reading order, four pairs a line."""
    columns = min(COLUMNS, max(len(rows), 2))
    lines = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    captions = [[_caption(row["prompt"]) for row in line] for line in lines]
    heights = [TILE + SCORE_BLOCK + max(map(len, line)) * CAPTION_STEP + ROW_GAP for line in captions]
    width = 2 * MARGIN + columns * CELL + (columns - 1) * GUTTER
    sheet = Image.new("RGB", (width, 2 * MARGIN + HEADER + sum(heights) - ROW_GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    _header(draw, list(dict.fromkeys(judge for row in rows for judge in _judges(row))))
    for number, line in enumerate(lines):
        y = MARGIN + HEADER + sum(heights[:number])
        for column, (row, caption) in enumerate(zip(line, captions[number], strict=True)):
            _pair(sheet, draw, MARGIN + column * (CELL + GUTTER), y, row, caption)
    return sheet


def _header(draw: ImageDraw.ImageDraw, judges: list[str]) -> None:
    draw.text((MARGIN, MARGIN), "First image, kept image", INK, _font(TITLE_SIZE), anchor="lt")
    x, y = MARGIN, MARGIN + 62
    legend = "Bars: the guiding model's score, 0 to 1."
    draw.text((x, y), legend, FAINT, _font(LEGEND_SIZE), anchor="lm")
    if judges:
        x += round(draw.textlength(legend, _font(LEGEND_SIZE))) + 20
        for verdict, word in ((True, "agrees"), (False, "disagrees")):
            _mark(draw, x + 8, y, verdict)
            text = f"judge {' and '.join(judges)} {word}" if verdict else word
            draw.text((x + 24, y), text, FAINT, _font(LEGEND_SIZE), anchor="lm")
            x += 24 + round(draw.textlength(text, _font(LEGEND_SIZE))) + 18


def _pair(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, row: Mapping[str, Any], caption: list[str]
) -> None:
    for side, suffix in enumerate(("_initial", "")):
        left = x + side * (TILE + PAIR_GAP)
        _tile(sheet, draw, left, y, row.get(f"image{suffix}"))
        verdicts = [row[f"judge_{judge}{suffix}"] for judge in _judges(row)]
        _score(draw, left, y + TILE + 10, row[f"score{suffix}"], verdicts)
    _arrow(draw, x + TILE + PAIR_GAP // 2, y + TILE // 2)
    for number, text in enumerate(caption):
        place = (x, y + TILE + SCORE_BLOCK + number * CAPTION_STEP)
        draw.text(place, text, INK, _font(CAPTION_SIZE, row["prompt"]), anchor="la")


def _tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, image: bytes | None) -> None:
    box = (x, y, x + TILE - 1, y + TILE - 1)
    if image is None:
        draw.rectangle(box, outline=TRACK, width=2)
        draw.text((x + TILE // 2, y + TILE // 2), "not kept", FAINT, _font(LEGEND_SIZE), anchor="mm")
        return
    picture = fit(Image.open(io.BytesIO(image)).convert("RGB"), TILE)
    draw.rectangle(box, fill=TRACK)
    sheet.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Scaled to touch a square of ``side`` pixels: whole multiples keep their hard pixels, all else is Lanczos."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    method = Image.Resampling.NEAREST if scale >= 2 and scale.is_integer() else Image.Resampling.LANCZOS
    return picture.resize(size, method)


def _score(draw: ImageDraw.ImageDraw, x: int, y: int, score: float, verdicts: list[float | None]) -> None:
    shade = tuple(round(low + (high - low) * score) for low, high in zip(LOW, HIGH, strict=True))
    marks = 22 * len(verdicts)
    bar = TILE - 48 - marks
    draw.rounded_rectangle((x, y + 4, x + bar, y + 11), 4, TRACK)
    if score > 0:
        draw.rounded_rectangle((x, y + 4, x + max(8, round(bar * score)), y + 11), 4, shade)
    draw.text((x + bar + 46, y + 7), f"{score:.2f}", INK, _font(SCORE_SIZE), anchor="rm")
    for number, verdict in enumerate(verdicts):
        if verdict is not None:
            _mark(draw, x + bar + 60 + 22 * number, y + 7, verdict >= 0.5)


def _mark(draw: ImageDraw.ImageDraw, x: int, y: int, good: bool) -> None:
    """A tick or a cross of 12 pixels around (x, y); drawn, since the built-in font has neither."""
    if good:
        draw.line([(x - 6, y), (x - 2, y + 5), (x + 6, y - 5)], YES, 3, joint="curve")
    else:
        draw.line([(x - 5, y - 5), (x + 5, y + 5)], NO, 3)
        draw.line([(x - 5, y + 5), (x + 5, y - 5)], NO, 3)


def _arrow(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    draw.line([(x - 7, y), (x + 6, y)], FAINT, 2)
    draw.line([(x + 1, y - 5), (x + 6, y), (x + 1, y + 5)], FAINT, 2, joint="curve")


def _judges(row: Mapping[str, Any]) -> list[str]:
    """The judges to show: as many as leave room for the bar."""
    begins, ends = "judge_", "_initial"
    names = [name for name in row if name.startswith(begins) and name.endswith(ends)]
    return [name[len(begins) : -len(ends)] for name in names[:MAX_MARKS]]


@cache
def _built_in(size: int) -> Font:
    return ImageFont.load_default(size)


def _font(size: int, text: str = "") -> Font:
    """Pillow's own font; text beyond ASCII, which it lacks, takes a system font where there is one."""
    if not text.isascii():
        for name in ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf"):
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return _built_in(size)


def _caption(prompt: str) -> list[str]:
    font = _font(CAPTION_SIZE, prompt)
    return wrap(_printable(prompt, font), font, CELL, CAPTION_LINES)


def _printable(text: str, font: Font) -> str:
    """One line of the text; in the built-in font accents are dropped and what is left beyond ASCII becomes ``?``."""
    text = " ".join(text.split())
    if text.isascii() or font is not _built_in(CAPTION_SIZE):
        return text
    plain = (char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return "".join(char if char.isascii() else "?" for char in plain)


def wrap(text: str, font: Font, width: int, lines: int) -> list[str]:
    """Break at spaces into at most ``lines`` lines of ``width`` pixels; what does not fit ends in ``…``."""
    words = text.split(" ")
    wrapped: list[str] = []
    while words and len(wrapped) < lines:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        last = len(wrapped) == lines - 1
        line = " ".join(words if last else words[:count])
        wrapped.append(line)
        words = words[count:]
    return [_ellipsised(line, font, width) for line in wrapped]


def _ellipsised(line: str, font: Font, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    low, high = 0, len(line)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(line[:middle].rstrip() + "…") <= width else (low, middle - 1)
    return line[:low].rstrip() + "…"
