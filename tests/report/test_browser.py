"""The page of a run in headless Chromium: what a reader sees, filters, sorts, opens and hears."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from noisesmith.pipeline.report.page import write_page
from noisesmith.pipeline.sinks import read_rows
from tests.report.browsing import CHROMIUM, REASON, Opened, chromium
from tests.report.pages import HOSTILE, LONG, SCRIPT, TWINS, rich_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=REASON)
VIEWS = ("overview", "images", "problems", "run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        return rich_run(tmp_path_factory.mktemp("rich")).dir


@pytest.fixture(scope="module")
def report(run_dir: Path) -> Path:
    target = run_dir / "report.html"
    write_page(run_dir, target, "runs/rich", lambda _, __: None)
    return target


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """A tab of a desktop's size; whatever a test does in it, the page must not complain."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    tab = Opened(page)
    yield tab
    page.close()
    assert tab.complaints == []


def test_every_view_shows_its_part(opened: Opened, report: Path) -> None:
    page = opened.go(report)
    assert page.title() == "rich · noisesmith report"
    assert "68" in page.locator(".tile").first.inner_text()
    page.locator("nav a", has_text="Images").click()
    assert page.locator("#shown").inner_text() == "68 of 68 rows shown."
    assert page.locator("#gallery .card").count() == 24
    page.locator("nav a", has_text="Problems").click()
    assert "OutOfMemoryError" in page.locator("#view-problems").inner_text()
    page.locator("nav a", has_text="Run").click()
    assert "questions of each row about the parts of its prompt" in page.locator("#view-run").inner_text()
    assert [page.locator(f"#view-{view}").is_visible() for view in VIEWS] == [False, False, False, True]


def test_pictures_are_there(opened: Opened, report: Path) -> None:
    page = opened.go(report, "images")
    widths = (
        page.locator("#gallery .card")
        .first.locator("img")
        .evaluate_all("images => Promise.all(images.map((image) => image.decode().then(() => image.naturalWidth)))")
    )
    assert widths == [64, 64]


def test_a_prompt_stays_text(opened: Opened, report: Path) -> None:
    page = opened.go(report, "images")
    page.locator("#sort").select_option("id")
    page.locator("#falling").select_option("")
    assert page.locator("#gallery .open").first.text_content() == SCRIPT
    page.locator("#gallery .open").first.click()
    assert page.locator("#detail-title").text_content() == SCRIPT
    assert page.evaluate("window.broken") is None
    assert page.locator("#gallery img[src=x]").count() == 0
    for prompt in HOSTILE[1:]:
        page.keyboard.press("ArrowRight")
        assert page.locator("#detail-title").text_content() == prompt


def test_text_and_column_filter_the_gallery(opened: Opened, report: Path) -> None:
    page = opened.go(report, "images")
    page.locator("#search").fill("PROMPT 31")
    assert opened.prompts() == ["prompt 31: a cat and a red car"]
    page.locator("#search").fill("no prompt has this")
    assert page.locator("#shown").inner_text() == "0 of 68 rows shown."
    page.get_by_role("button", name="Reset").click()
    page.locator("#column").select_option("topic")
    page.locator("#value").fill("<i>odd")
    assert page.locator("#shown").inner_text() == "22 of 68 rows shown."


def test_ranges_verdicts_and_stop_reasons_filter_the_gallery(opened: Opened, report: Path, run_dir: Path) -> None:
    rows = list(read_rows(run_dir, ["score", "score_initial", "accepted", "stop_reason"]))
    page = opened.go(report, "images")
    page.locator("#verdict").select_option("accepted")
    accepted = sum(row["accepted"] for row in rows)
    assert page.locator("#shown").inner_text() == f"{accepted} of 68 rows shown."
    page.get_by_role("button", name="Reset").click()
    page.get_by_text("Ranges of scores").click()
    page.get_by_label("VQA score: change, at least").fill("0.4")
    risen = sum(row["score"] - row["score_initial"] >= 0.4 for row in rows)
    assert page.locator("#shown").inner_text() == f"{risen} of 68 rows shown."
    page.get_by_role("button", name="Reset").click()
    page.locator("#stop").select_option("target")
    stopped = sum(row["stop_reason"] == "target" for row in rows)
    assert page.locator("#shown").inner_text() == f"{stopped} of 68 rows shown."


def test_near_duplicates_are_grouped_and_filtered(opened: Opened, report: Path) -> None:
    page = opened.go(report, "problems")
    assert "3 images in 1 group" in page.locator("#view-problems").inner_text()
    page.locator("nav a", has_text="Images").click()
    page.locator("#twins").check()
    assert sorted(opened.prompts()) == [f"prompt {number}: a cat and a red car" for number in TWINS]


@pytest.mark.parametrize(("key", "column"), [("score.gain", None), ("judge_eye.kept", "judge_eye")])
def test_sorting_follows_a_score(opened: Opened, report: Path, run_dir: Path, key: str, column: str | None) -> None:
    rows = list(read_rows(run_dir, ["prompt", "score", "score_initial", "judge_eye"]))
    rows.sort(key=lambda row: row[column] if column else row["score"] - row["score_initial"])
    page = opened.go(report, "images")
    page.locator("#sort").select_option(key)
    page.locator("#falling").select_option("")
    assert page.locator("#gallery .open").first.text_content() == rows[0]["prompt"]
    page.locator("#falling").select_option("yes")
    assert page.locator("#gallery .open").first.text_content() == rows[-1]["prompt"]


def test_rows_where_a_judge_disagrees_are_a_click_away(opened: Opened, report: Path, run_dir: Path) -> None:
    rows = list(read_rows(run_dir, ["judge_eye", "judge_eye_initial"]))
    worse = sum(row["judge_eye"] < row["judge_eye_initial"] for row in rows)
    page = opened.go(report, "problems")
    page.get_by_role("button", name="Show them").click()
    assert page.locator("#shown").inner_text() == f"{worse} of 68 rows shown."


def test_more_cards_come_on_request(opened: Opened, report: Path) -> None:
    page = opened.go(report, "images")
    page.get_by_role("button", name="Show 24 more of 44").click()
    assert page.locator("#gallery .card").count() == 48
    page.get_by_role("button", name="Show 20 more of 20").click()
    assert page.locator("#gallery .card").count() == 68
    assert not page.locator("#more").is_visible()


def test_the_replay_command_and_the_recipe_are_copied(browser: Browser, report: Path, run_dir: Path) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = Opened(context.new_page()).go(report, "images")
    page.locator("#search").fill("prompt 31")
    page.locator("#gallery .open").click()
    (row,) = [row for row in read_rows(run_dir, ["id", "recipe"]) if row["id"].startswith("00000031")]
    page.get_by_role("button", name="Copy the replay command").click()
    assert page.evaluate("navigator.clipboard.readText()") == f"noisesmith replay runs/rich {row['id']}"
    page.get_by_role("button", name="Copy recipe").click()
    assert page.evaluate("navigator.clipboard.readText().then(JSON.parse)") == row["recipe"]
    assert page.locator("#spoken").inner_text() == "Copied"
    context.close()


def test_the_keyboard_is_enough(opened: Opened, report: Path) -> None:
    page = opened.go(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the images"
    page.keyboard.press("Enter")
    page.locator("#gallery .open").first.focus()
    first = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("ArrowRight")
    assert page.locator("#detail-title").text_content() == page.locator("#gallery .open").nth(1).text_content()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.textContent") == first


def test_everything_has_a_name_for_a_screen_reader(opened: Opened, report: Path) -> None:
    unnamed = """() => [...document.querySelectorAll("input, select, button, a, [role=img], table, dialog, nav, form")]
        .filter((element) => element.checkVisibility())
        .filter((element) => !(element.getAttribute("aria-label") || element.getAttribute("aria-labelledby")
            || element.labels?.length || element.textContent.trim() || element.querySelector("img[alt]")))
        .map((element) => element.outerHTML)"""
    for view in VIEWS:
        page = opened.go(report, view)
        assert page.evaluate(unnamed) == []
        assert page.locator("img:not([alt])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_its_background(browser: Browser, report: Path, scheme: str) -> None:
    """WCAG asks for a contrast of 4.5 for text."""
    context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
    page = Opened(context.new_page()).go(report)
    colours = page.evaluate(
        """() => {
            const style = getComputedStyle(document.documentElement);
            const names = ["--bg", "--panel", "--ink", "--muted", "--kept", "--first", "--no"];
            return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(name).trim()]));
        }"""
    )
    assert (_luminance(colours["--bg"]) < 0.5) is (scheme == "dark")
    for ground in ("--bg", "--panel"):
        for text in ("--ink", "--muted", "--kept", "--no"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert _contrast(colours["--first"], colours[ground]) >= 3  # marks in charts
    context.close()


def test_a_phone_shows_all_without_moving_sideways(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 780}, has_touch=True)
    tab = Opened(page)
    for view in VIEWS:
        tab.go(report, view)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, view
    tab.go(report, "images")
    page.locator("#search").fill(LONG[:40])
    page.locator("#gallery .open").tap()
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 360
    assert page.get_by_role("button", name="Close").is_visible()
    page.close()
    assert tab.complaints == []


def _contrast(one: str, other: str) -> float:
    brighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, by WCAG 2."""
    linear = []
    for place in (1, 3, 5):
        value = int(colour[place : place + 2], 16) / 255
        linear.append(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
