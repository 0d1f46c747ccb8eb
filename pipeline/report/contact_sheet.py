"""A picture of a run: first and kept images side by side, with their prompts and scores."""

from __future__ import annotations

import io
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable
from functools import cache
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from noisesmith.pipeline.report.summary import Row
from noisesmith.pipeline.storage.files import write_atomic

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Colours.
PAPER = "#fbfaf7"
INK = "#23262b"
FAINT = "#8a8f98"
TRACK = "#e6e4de"
LOW = (214, 122, 84)  # a bar at score 0
HIGH = (52, 138, 106)  # a bar at score 1
YES = "#348a6a"
NO = "#c4593b"
# Sizes in pixels. A cell is a pair of tiles: first image, kept image.
TILE = 192
PAIR_GAP = 28
CELL = 2 * TILE + PAIR_GAP
GUTTER = 44
MARGIN = 52
HEADER = 96
SCORE_BLOCK = 40
CAPTION_STEP = 26
ROW_GAP = 38
MARK_STEP = 22
FRAME = 4
TITLE_SIZE = 34
CAPTION_SIZE = 20
SCORE_SIZE = 18
LEGEND_SIZE = 18
# Counts.
COLUMNS = 4
CAPTION_LINES = 2
MAX_MARKS = 4


def write_contact_sheet(path: Path, rows: Iterable[Row], limit: int = 24) -> None:
    """Draw up to ``limit`` rows as a PNG at ``path``, which appears whole or not at all.

    A row holds ``prompt``, ``image`` and, where kept, ``image_initial`` as encoded bytes, ``score``,
    ``score_initial``, and any number of ``judge_NAME`` and ``judge_NAME_initial`` (null where a judge cannot tell). The
    kept image has a red frame where ``accepted`` is false.
    """
    buffer = io.BytesIO()
    draw_contact_sheet(list(islice(rows, limit))).save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())


def draw_contact_sheet(rows: list[Row]) -> Image.Image:
    """The sheet as an RGB image: ``rows`` in reading order, four pairs per line."""
    columns = min(COLUMNS, max(len(rows), 2))
    lines = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    captions = [[_caption(row["prompt"]) for row in line] for line in lines]
    heights: list[int] = []
    for line_captions in captions:
        longest = max(map(len, line_captions))
        heights.append(TILE + SCORE_BLOCK + longest * CAPTION_STEP + ROW_GAP)
    width = 2 * MARGIN + columns * CELL + (columns - 1) * GUTTER
    height = 2 * MARGIN + HEADER + sum(heights) - ROW_GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    judges: list[str] = []
    for row in rows:
        judges += [judge for judge in _judges(row) if judge not in judges]
    _header(draw, judges, any(row.get("accepted") is not None for row in rows))
    y = MARGIN + HEADER
    for line, line_captions, line_height in zip(lines, captions, heights, strict=True):
        x = MARGIN
        for row, caption in zip(line, line_captions, strict=True):
            _pair(sheet, draw, x, y, row, caption)
            x += CELL + GUTTER
        y += line_height
    return sheet


def _header(draw: ImageDraw.ImageDraw, judges: list[str], has_verdicts: bool) -> None:
    draw.text((MARGIN, MARGIN), "First image, kept image", INK, _font(TITLE_SIZE), anchor="lt")
    x = MARGIN
    y = MARGIN + 62
    font = _font(LEGEND_SIZE)
    legend = "Bars: the scoring model's score, 0 to 1."
    draw.text((x, y), legend, FAINT, font, anchor="lm")
    x += round(draw.textlength(legend, font)) + 20
    if has_verdicts:
        draw.rectangle((x, y - 7, x + 14, y + 7), outline=NO, width=FRAME)
        draw.text((x + 24, y), "not accepted", FAINT, font, anchor="lm")
        x += 24 + round(draw.textlength("not accepted", font)) + 18
    if not judges:
        return
    for verdict, text in ((True, f"judge {' and '.join(judges)} agrees"), (False, "disagrees")):
        _mark(draw, x + 8, y, verdict)
        draw.text((x + 24, y), text, FAINT, font, anchor="lm")
        x += 24 + round(draw.textlength(text, font)) + 18


def _pair(sheet: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, row: Row, caption: list[str]) -> None:
    for side, suffix in enumerate(("_initial", "")):
        left = x + side * (TILE + PAIR_GAP)
        _tile(sheet, draw, left, y, row.get(f"image{suffix}"))
        verdicts = [row[f"judge_{judge}{suffix}"] for judge in _judges(row)]
        _score(draw, left, y + TILE + 10, row[f"score{suffix}"], verdicts)
    if row.get("accepted") is False:
        left = x + TILE + PAIR_GAP
        draw.rectangle((left, y, left + TILE - 1, y + TILE - 1), outline=NO, width=FRAME)
    _arrow(draw, x + TILE + PAIR_GAP // 2, y + TILE // 2)
    for number, text in enumerate(caption):
        top = y + TILE + SCORE_BLOCK + number * CAPTION_STEP
        draw.text((x, top), text, INK, _font(CAPTION_SIZE, row["prompt"]), anchor="la")


def _tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, image: bytes | None) -> None:
    """The encoded image in a square whose upper left corner is (x, y), or an empty frame where there is none."""
    box = (x, y, x + TILE - 1, y + TILE - 1)
    if image is None:
        draw.rectangle(box, outline=TRACK, width=2)
        draw.text((x + TILE // 2, y + TILE // 2), "not kept", FAINT, _font(LEGEND_SIZE), anchor="mm")
        return
    picture = fit(Image.open(io.BytesIO(image)).convert("RGB"), TILE)
    draw.rectangle(box, fill=TRACK)
    sheet.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))


def fit(picture: Image.Image, side: int) -> Image.Image:
    """The picture scaled to fill the width or height of a square of ``side`` pixels.

    Small pictures that fit a whole number of times keep their sharp pixels; all others are filtered (Lanczos).
    """
    scale = side / max(picture.size)
    width = max(1, round(picture.width * scale))
    height = max(1, round(picture.height * scale))
    sharp = scale >= 2 and scale.is_integer()
    return picture.resize((width, height), Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS)


def _score(draw: ImageDraw.ImageDraw, x: int, y: int, score: float, verdicts: list[float | None]) -> None:
    """A bar of the score, the score in figures, and one mark per judge that could tell."""
    shade = tuple(round(low + (high - low) * score) for low, high in zip(LOW, HIGH, strict=True))
    bar = TILE - 48 - MARK_STEP * len(verdicts)
    draw.rounded_rectangle((x, y + 4, x + bar, y + 11), 4, TRACK)
    if score > 0:
        draw.rounded_rectangle((x, y + 4, x + max(8, round(bar * score)), y + 11), 4, shade)
    draw.text((x + bar + 46, y + 7), f"{score:.2f}", INK, _font(SCORE_SIZE), anchor="rm")
    for number, verdict in enumerate(verdicts):
        if verdict is not None:
            _mark(draw, x + bar + 60 + MARK_STEP * number, y + 7, verdict >= 0.5)


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


def _judges(row: Row) -> list[str]:
    """The judges to show: as many as leave room for the bar."""
    judges = [name.removeprefix("judge_") for name in row if name.startswith("judge_")]
    names = [judge.removesuffix("_initial") for judge in judges if judge.endswith("_initial")]
    return names[:MAX_MARKS]


@cache
def _built_in(size: int) -> Font:
    return ImageFont.load_default(size)


def _font(size: int, text: str = "") -> Font:
    """Pillow's own font, which has ASCII only; other text takes a system font where there is one."""
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
    """The text on one line; for the built-in font without accents, and with ``?`` for other non-ASCII characters."""
    text = " ".join(text.split())
    if text.isascii() or font is not _built_in(CAPTION_SIZE):
        return text
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    return plain.encode("ascii", "replace").decode()


def wrap(text: str, font: Font, width: int, lines: int) -> list[str]:
    """Break text at spaces into at most ``lines`` lines of ``width`` pixels; a line that does not fit ends in ``…``."""
    words = text.split(" ")
    wrapped: list[str] = []
    while words and len(wrapped) < lines:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        if len(wrapped) == lines - 1:
            count = len(words)  # the last line takes the rest, and is shortened below
        wrapped.append(" ".join(words[:count]))
        words = words[count:]
    return [_shortened(line, font, width) for line in wrapped]


def _shortened(line: str, font: Font, width: int) -> str:
    """The line, or its longest beginning that fits with ``…``."""
    if font.getlength(line) <= width:
        return line

    def too_long(length: int) -> bool:
        return font.getlength(line[:length].rstrip() + "…") > width

    fitting = bisect_left(range(1, len(line) + 1), True, key=too_long)
    return line[:fitting].rstrip() + "…"
