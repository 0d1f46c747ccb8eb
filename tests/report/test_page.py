"""A run's page as a file: what is in it, what is not, and how large it is."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from noisesmith.pipeline.duplicates import NEAR, near_duplicates
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.report.page import collect, write_page
from noisesmith.pipeline.report.page.embed import to_json
from noisesmith.pipeline.report.page.private import without_places
from noisesmith.pipeline.report.page.thumbnails import LIMIT, thumbnail
from noisesmith.pipeline.report.sample import SeededSample
from noisesmith.pipeline.sinks import read_rows
from tests.report.pages import FAILED, ROWS, SECRET_HOST, SECRET_PATH, picture, rich_result, rich_run
from tests.sinks.conftest import Run, result

OLD = Path(__file__).parents[1] / "data" / "old_run"
NAMES = st.text(min_size=1, alphabet=st.characters(categories=["L", "N"]))


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return rich_run(tmp_path)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Path], tuple[str, dict[str, Any]]]:
    """``written(run_dir)`` gives a run's page and the data in it."""

    def write(run_dir: Path) -> tuple[str, dict[str, Any]]:
        target = tmp_path / "page.html"
        write_page(run_dir, target, "runs/rich", lambda _, __: None)
        html = target.read_text()
        (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
        return html, json.loads(data)

    return write


Written = Callable[[Path], tuple[str, dict[str, Any]]]


def test_the_page_has_every_row_exactly(run: Run, written: Written) -> None:
    _, data = written(run.dir)
    rows = list(read_rows(run.dir, ["id", "score", "score_initial", "rounds", "recipe", "topic", "difficulty"]))
    assert [row["id"] for row in data["rows"]] == [row["id"] for row in rows]
    for shown, row in zip(data["rows"], rows, strict=True):
        assert shown["scores"]["score"] == pytest.approx([row["score_initial"], row["score"]], rel=1e-4)
        assert shown["recipe"] == json.loads(json.dumps(row["recipe"]))
        assert shown["extra"]["topic"] == row["topic"]
        assert shown["extra"]["difficulty"] == row["difficulty"]
    assert (data["done"], data["wanted"], data["failures"]["total"]) == (ROWS - FAILED, ROWS, FAILED)


def test_nothing_is_loaded_and_only_our_program_may_run(run: Run, written: Written) -> None:
    html, _ = written(run.dir)
    head = html.split("<style>")[0]
    assert "default-src 'none'" in head
    assert "unsafe" not in head
    assert not re.findall(r"<(?:link|script|img)[^>]+(?:src|href)=[\"']?(?!data:)\w", html)


def test_machines_and_places_are_not_on_the_page(run: Run, written: Written) -> None:
    html, data = written(run.dir)
    assert data["failures"]["rows"][0]["message"] == "no memory for …/unet on …"
    for secret in (SECRET_PATH, SECRET_HOST, "Traceback:", str(run.dir.parent)):
        assert secret not in html


def test_a_run_without_a_row_says_so(tmp_path: Path, written: Written) -> None:
    run = Run(tmp_path, [{"prompt": "a cat"}])
    run.writer()
    _, data = written(run.dir)
    assert (data["done"], data["rows"], data["settings"]) == (0, [], [])


def test_a_row_counts_before_its_shard_is_committed(tmp_path: Path, written: Written) -> None:
    run = Run(tmp_path, [{"prompt": f"prompt {number}"} for number in range(6)])
    writer = run.writer()
    for row in run.rows[:5]:  # four are a shard
        writer.put(result(row))
    _, data = written(run.dir)
    assert len(data["rows"]) == data["done"] == 5


def test_a_run_of_an_older_version_has_a_page(tmp_path: Path, written: Written) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    _, data = written(tmp_path / "old" / "run")
    assert len(data["rows"]) == 5  # four are committed, one is staged
    assert data["columns"] == ["image_id", "weight", "caption_id"]  # of its corpus


def test_a_large_run_is_sampled_and_says_so(run: Run, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "ROWS", 10)
    _, data = written(run.dir)
    assert data["sampled"]
    assert len(data["rows"]) == 10
    assert data["done"] == ROWS - FAILED
    assert data["curve"][0] == pytest.approx(
        sum(row["score_initial"] for row in read_rows(run.dir, ["score_initial"])) / data["done"], rel=1e-4
    )


def test_a_page_keeps_its_limit(tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, [{"prompt": f"prompt {number}"} for number in range(8)])
    writer = run.writer()
    for row in run.rows:
        noise = Image.frombytes("RGB", (256, 256), random.Random(row.index).randbytes(3 * 256 * 256))
        buffer = io.BytesIO()
        noise.save(buffer, "PNG")
        writer.put(replace(rich_result(row), image=buffer.getvalue(), members={}, atoms=(), judges={"eye": (0.1, 0.2)}))
    free, _ = written(run.dir)
    limit = 60_000
    monkeypatch.setattr(collect, "PAGE_BYTES", limit)
    tight, data = written(run.dir)
    pictures = sum(map(len, re.findall(r'id="pictures-\d+">(.*?)</script>', tight, re.DOTALL)))
    assert pictures + sum(len(to_json(row)) for row in data["rows"]) < limit
    assert len(tight) < len(free)
    assert len(data["rows"]) == 8


def test_a_damaged_target_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--out: .*nowhere/page\.html cannot be written"):
        write_page(run.dir, tmp_path / "nowhere" / "page.html", "run", lambda _, __: None)


@pytest.mark.parametrize("side", [64, 1024])
def test_a_thumbnail_of_noise_keeps_its_limit(side: int) -> None:
    noise = Image.frombytes("RGB", (side, side), random.Random(0).randbytes(3 * side * side))
    made = thumbnail(noise)
    assert len(made) <= LIMIT
    assert max(Image.open(io.BytesIO(made)).size) <= 256


@given(st.text())
def test_no_text_ends_the_element_that_holds_the_data(text: str) -> None:
    embedded = to_json({"prompt": text})
    assert "<" not in embedded
    assert ">" not in embedded
    assert json.loads(embedded) == {"prompt": text}


@given(NAMES, NAMES)
def test_paths_are_left_out_but_their_last_part(folder: str, name: str) -> None:
    assert without_places(f"cannot open /{folder}/x/{name}, sorry") == f"cannot open …/{name}, sorry"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://10.0.0.7:8000/v1 refused", "http://… refused"),
        ("10.0.0.7:8000 refused", "… refused"),
        ("s3://bucket/key: no such key", "s3://… no such key"),
        ("~/models/sd is no folder", "…/sd is no folder"),
        (r"C:\Users\me\sd is no folder", "…/sd is no folder"),
        ("worker-3 died", "… died"),
        ("score 0.5/1.0 and yes/no stay", "score 0.5/1.0 and yes/no stay"),
        ("stabilityai/sdxl-turbo stays", "stabilityai/sdxl-turbo stays"),
    ],
)
def test_addresses_and_hosts_are_left_out(text: str, shown: str) -> None:
    assert without_places(text, {"worker-3"}) == shown


def test_near_duplicates_are_grouped_around_their_first() -> None:
    far = (1 << 192) - 1
    near = (1 << NEAR) - 1
    assert near_duplicates([0, far, near, far ^ 1, 0, 1 << 100 | 0xFFFFFF]) == [[0, 2, 4], [1, 3]]
    assert near_duplicates([]) == []


@given(st.permutations(range(40)))
def test_a_sample_does_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    sample = SeededSample(7)
    for number in order:
        sample.add({"id": f"{number:08d}"})
    usual = SeededSample(7)
    for number in range(40):
        usual.add({"id": f"{number:08d}"})
    assert sample.rows() == usual.rows()


def test_pictures_that_differ_are_no_duplicates(run: Run, written: Written) -> None:
    _, data = written(run.dir)
    assert data["duplicates"] == [[10, 11, 12]]
    assert picture(10) != picture(11)
