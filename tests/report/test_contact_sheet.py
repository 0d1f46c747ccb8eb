"""The contact sheet takes any image size and any prompt, and shows what a row holds."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from noisesmith.pipeline.report.contact_sheet import PAPER, TILE, draw_contact_sheet, fit, wrap, write_contact_sheet


def png(width: int, height: int, colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def row(size: tuple[int, int] = (64, 64), **changes: Any) -> dict[str, Any]:
    images = {"image_initial": png(*size, "#ff0000"), "image": png(*size, "#0000ff")}
    return {"prompt": "a cat and a red car", "score_initial": 0.2, "score": 0.9} | images | changes


def count(sheet: Image.Image, colour: str) -> int:
    wanted = np.array(Image.new("RGB", (1, 1), colour))[0, 0]
    return int((np.array(sheet) == wanted).all(axis=2).sum())


@pytest.mark.parametrize("size", [(64, 64), (1024, 1024), (50, 50)])
def test_both_images_fill_their_tiles_at_any_size(size: tuple[int, int]) -> None:
    sheet = draw_contact_sheet([row(size)])
    assert count(sheet, "#ff0000") == count(sheet, "#0000ff") == TILE * TILE


def test_proportions_are_kept() -> None:
    sheet = draw_contact_sheet([row((1024, 512))])
    assert count(sheet, "#0000ff") == TILE * TILE // 2


def test_small_pictures_keep_their_pixels_and_large_ones_are_smoothed() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(fit(noise, 192)), np.asarray(noise).repeat(3, axis=0).repeat(3, axis=1))
    large = noise.resize((1024, 1024), Image.Resampling.NEAREST)
    assert np.asarray(fit(large, 16)).std() < np.asarray(noise).std() / 2


def test_a_row_without_its_first_image_still_shows_the_kept_one() -> None:
    absent = row()
    del absent["image_initial"]
    for sheet in (draw_contact_sheet([row(image_initial=None)]), draw_contact_sheet([absent])):
        assert count(sheet, "#ff0000") == 0
        assert count(sheet, "#0000ff") == TILE * TILE


def test_a_judge_adds_a_mark_and_a_legend_only_where_it_can_tell() -> None:
    plain = draw_contact_sheet([row()])
    silent = draw_contact_sheet([row(judge_eye=None, judge_eye_initial=None)])
    spoken = draw_contact_sheet([row(judge_eye=1.0, judge_eye_initial=0.0)])
    tick, cross = "#348a6a", "#c4593b"
    assert count(plain, tick) == count(plain, cross) == 0
    assert count(spoken, tick) > count(silent, tick) > 0  # the legend shows both marks
    assert count(spoken, cross) > count(silent, cross) > 0


def test_more_judges_than_fit_do_not_break_the_sheet() -> None:
    verdicts: dict[str, Any] = {}
    for number in range(12):
        verdicts |= {f"judge_j{number}_initial": 1.0, f"judge_j{number}": 1.0}
    draw_contact_sheet([row() | verdicts])


@pytest.mark.parametrize(
    "prompt", ["word " * 400, "x" * 2000, "Un café à côté 日本 \U0001f642", "two\nlines\ttabs", "-"]
)
def test_any_prompt_stays_within_its_cell(prompt: str) -> None:
    sheet = draw_contact_sheet([row(prompt=prompt)])
    beyond = sheet.crop((sheet.width // 2 + 40, 160, sheet.width, sheet.height))  # the empty second cell
    assert beyond.getcolors() == [(beyond.width * beyond.height, Image.new("RGB", (1, 1), PAPER).getpixel((0, 0)))]


@given(st.text(st.sampled_from("abW .,"), max_size=300), st.integers(1, 4))
def test_wrapped_lines_fit_and_lose_nothing_but_the_end(text: str, lines: int) -> None:
    font = ImageFont.load_default(20)
    text = " ".join(text.split())
    wrapped = wrap(text, font, 200, lines)
    assert len(wrapped) <= lines
    assert all(font.getlength(line) <= 200 for line in wrapped)
    if not any(line.endswith("…") for line in wrapped):
        assert " ".join(wrapped) == text


def test_only_the_rows_shown_are_read_and_nothing_else_is_left_behind(tmp_path: Path) -> None:
    drawn: list[int] = []
    rows = (drawn.append(number) or row() for number in itertools.count())  # type: ignore[func-returns-value]
    write_contact_sheet(tmp_path / "contact_sheet.png", rows, limit=5)
    assert len(drawn) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["contact_sheet.png"]
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert count(sheet, "#0000ff") == 5 * TILE * TILE


def test_a_run_without_rows_gives_a_sheet_without_pairs(tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / "contact_sheet.png", [])
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width > 0
