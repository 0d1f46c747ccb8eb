"""The card, the page and the README of an export say what each part has added to a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from noisesmith.pipeline.export import ExportOptions, export
from noisesmith.pipeline.report import rewrite_report
from noisesmith.pipeline.report.page import write_page
from noisesmith.pipeline.sinks import config_of_run, read_rows
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.telemetry.console import search_progress
from tests.extend.conftest import extend, more_prompts
from tests.report.browsing import CHROMIUM, REASON, Opened, chromium
from tests.sinks.conftest import Run

MakeRun = Callable[..., Run]


def card_of(run: Run) -> DatasetCard:
    rewrite_report(run.dir, config_of_run(run.dir))
    return DatasetCard.load(run.dir / "README.md")


def text_of(card: DatasetCard) -> str:
    """The card's text without its line breaks and the backslashes that keep characters from being markup."""
    return " ".join(card.text.replace("\\", "").split())


def write(run: Run) -> Path:
    target = run.dir.parent / "page.html"
    write_page(run.dir, target, "runs/extended", lambda _, __: None)
    return target


def page_of(run: Run) -> dict[str, Any]:
    target = write(run)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', target.read_text(), re.DOTALL)
    page: dict[str, Any] = json.loads(data)
    return page


def test_the_card_names_each_part_and_its_stop_rules(make_run: MakeRun) -> None:
    run = make_run()
    plain = text_of(card_of(run))
    assert "The whole configuration is in `config.yaml`." in plain
    assert "parent_id continues" not in plain

    extend(run, [more_prompts(run), "corpus.language=de", "optimizer.rounds=4"])
    extend(run, ["optimizer.rounds=60", "optimizer.target_score=0.9"], below=0.5)
    card = card_of(run)
    text = text_of(card)
    assert card.data.to_dict()["language"] == ["en", "de"]
    assert "more.jsonl (3 rows, rounds 4)" in text
    assert "then searches continued where the score was below 0.5 (6 rows, rounds 60, target_score 0.9)" in text
    assert "in `config.yaml`, and that of the further parts in `config-part1.yaml` and so on." in text
    assert "A row with a parent_id continues the search of that row" in text
    assert "14 images made" in text


def test_searches_that_began_without_rounds_are_searches(make_run: MakeRun) -> None:
    run = make_run(optimizer={"rounds": 0})
    assert "a frozen diffusion model made one image" in text_of(card_of(run))
    extend(run, ["optimizer.rounds=9"], below=0.5)
    assert "the *initial noise* of a frozen diffusion model was searched" in text_of(card_of(run))


def test_the_page_has_the_rows_of_all_parts(make_run: MakeRun) -> None:
    run = make_run()
    extend(run, [more_prompts(run)])
    page = page_of(run)
    assert (page["wanted"], page["done"], len(page["rows"])) == (8, 8, 8)
    assert "parent" not in page["rows"][0]

    extend(run, ["optimizer.rounds=60"], below=0.1)
    page = page_of(run)
    rows = page["rows"]
    assert [row["parent"] for row in rows] == [None] * 8 + [rows[0]["id"], rows[5]["id"]]
    assert any("continues the search" in note for note in page["notes"])


@pytest.mark.skipif(CHROMIUM is None, reason=REASON)
def test_the_page_shows_from_which_row_a_search_goes_on(make_run: MakeRun) -> None:
    run = make_run()
    extend(run, ["optimizer.rounds=60"], below=0.1)
    first, *_, last = [row["id"] for row in read_rows(run.dir, ["id"])]
    with chromium() as browser:
        tab = Opened(browser.new_page())
        page = tab.go(write(run), "images")
        page.locator(f'#gallery [data-id="{last}"] .open').click()
        assert f"The first image has the noise that row {first} has kept." in page.locator("#detail").inner_text()
        page.keyboard.press("Escape")
        page.locator(f'#gallery [data-id="{first}"] .open').click()
        assert "The first image has" not in page.locator("#detail").inner_text()
        assert tab.complaints == []


def test_an_export_names_the_corpora(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    extend(run, [more_prompts(run)])
    extend(run, ["optimizer.rounds=60"], below=0.1)
    exported = export(run.dir, ExportOptions(to="captions", out=tmp_path / "out", top_k=1), search_progress)
    assert exported.rows == {"train": 8}, "one of the two rows of the continued search"
    text = (tmp_path / "out" / "README.md").read_text()
    first, second, _ = read_manifest(run.dir).parts
    assert f"its corpora `{first.corpus_digest[:16]}`, `{second.corpus_digest[:16]}`." in text


def test_a_continued_search_is_no_pair_of_noises(make_run: MakeRun, tmp_path: Path) -> None:
    """Its first score is not that of the noise with which the search began."""
    run = make_run()
    extend(run, ["optimizer.rounds=60"], below=0.5)
    exported = export(run.dir, ExportOptions(to="noise", out=tmp_path / "out"), search_progress)
    assert exported.rows == {"train": 5}
    ((reason, count),) = exported.dropped.items()
    assert (count, "continue the search of another row" in reason) == (3, True)
