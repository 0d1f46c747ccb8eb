"""``python -m tests.load.pages``: how fast a report of 5,000 rows of 1,024 px images loads and filters in Chromium.

``--distinct`` rows pass through the whole report: their images are decoded, reduced and embedded. The page repeats them
under other ids and scores up to ``--rows``, since the browser's work is what is measured. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image
from playwright.sync_api import Page as Tab

from noisesmith.pipeline.report.page import collect
from noisesmith.pipeline.report.page.collect import Collector
from noisesmith.pipeline.report.page.embed import render
from tests.report.browsing import chromium
from tests.report.pages import rich_result
from tests.sinks.conftest import Run

LOADS = 5
FILTERS = 10  # of each kind
OCTAVES = ((4, 90), (16, 50), (64, 30), (256, 14))  # cells per side and contrast: about as detailed as a photograph
# Milliseconds from a change of a control to the frame that shows its effect.
TIMED = """([id, value]) => new Promise((done) => {
    const control = document.getElementById(id);
    const start = performance.now();
    control.value = value;
    control.dispatchEvent(new Event(control.tagName === "SELECT" ? "change" : "input", {bubbles: true}));
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""
LOADED = "() => performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--side", type=int, default=1024, help="pixels of an image")
    parser.add_argument("--distinct", type=int, default=100, help="rows with images of their own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        figures = write_large_page(path, options.rows, min(options.distinct, options.rows), options.side)
        figures |= measure(path)
    print(json.dumps(figures, indent=1))


def write_large_page(target: Path, rows: int, distinct: int, side: int) -> dict[str, Any]:
    """Write a page of ``rows`` rows and return the sizes of its file and thumbnails in bytes."""
    run = _run(target.parent, distinct, side)
    # A page of so few rows would have room for larger thumbnails.
    share = collect.PAGE_BYTES * distinct // rows
    started = time.process_time()
    with patch.object(collect, "PAGE_BYTES", share):
        page = Collector(run.dir, "run").whole(lambda _, __: None)
    seconds = time.process_time() - started
    chance = random.Random(0)
    shown = []
    pictures = []
    for number in range(rows):
        first, kept = sorted((chance.random(), chance.random()))
        shown.append(_repeated(page.data["rows"][number % distinct], number, first, kept))
        pictures.append(page.pictures[number % distinct])
    data = {**page.data, "rows": shown, "done": rows, "wanted": rows, "duplicates": []}
    target.write_text(render("large", data, pictures, live=False))
    thumbnails = [len(encoded) for made in page.pictures for encoded in (made.kept, made.first) if encoded]
    return {
        "rows": rows,
        "page_bytes": target.stat().st_size,
        "largest_thumbnail_bytes": max(thumbnails),
        "mean_thumbnail_bytes": round(statistics.mean(thumbnails)),
        "cpu_seconds_per_row": round(seconds / distinct, 3),
    }


def measure(path: Path) -> dict[str, Any]:
    """Return milliseconds until a page is loaded, and until a filter or another order is on the screen.

    The milliseconds of CPU of the page's main thread say the same on a machine that has other work.
    """
    loads = []
    changes: dict[str, list[float]] = {}
    work: dict[str, list[float]] = {}
    with chromium() as browser:
        for _ in range(LOADS):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(f"{path.as_uri()}#images")
            loads.append(tab.evaluate(LOADED))
            tab.close()
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(f"{path.as_uri()}#images")
        worked = _work(tab)
        for turn in range(FILTERS):
            for name, control, value in _changes(turn):
                before = worked()
                changes.setdefault(name, []).append(tab.evaluate(TIMED, [control, value]))
                work.setdefault(name, []).append(worked() - before)
        shown = _shown(tab)
        tab.close()
    summary = {name: _summary(times) for name, times in changes.items()}
    work_summary = {name: _summary(times) for name, times in work.items()}
    return {
        "load_ms": _summary(loads),
        "filter_ms": summary,
        "filter_cpu_ms": work_summary,
        "last_shown": shown,
    }


def _work(tab: Tab) -> Callable[[], float]:
    """Return a function that gives the milliseconds of CPU that the page's main thread has used so far."""
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def used() -> float:
        metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
        return 1000 * float(metrics["ThreadTime"])

    return used


def _changes(turn: int) -> list[tuple[str, str, str]]:
    """What is changed in one turn: a name, the control and its new value."""
    return [
        ("text", "search", f"{turn} a cat"),
        ("no text", "search", ""),
        ("range", "score.gain.0", str(turn / 20)),
        ("no range", "score.gain.0", ""),
        ("stop reason", "stop", "target"),
        ("any stop reason", "stop", ""),
        ("order", "sort", ("score.kept", "score.gain")[turn % 2]),
    ]


def _summary(times: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(times), 1), "largest": round(max(times), 1)}


def _shown(tab: Tab) -> str:
    return tab.locator("#shown").inner_text()


def _run(folder: Path, rows: int, side: int) -> Run:
    """Write a run of so many rows with photo-like images."""
    run = Run(folder, [{"prompt": f"{number} a cat on a red car next to a bowl"} for number in range(rows)])
    with patch.object(os, "fsync", lambda _: None):
        writer = run.writer()
        for row in run.rows:
            image = _photo(2 * row.index, side)
            first = _photo(2 * row.index + 1, side)
            plain = replace(rich_result(row), members={}, atoms=(), judges={"eye": (0.2, 0.7)}, width=side, height=side)
            writer.put(replace(plain, image=image, image_initial=first))
        writer.finish()
    return run


def _photo(seed: int, side: int) -> bytes:
    chance = np.random.default_rng(seed)
    picture = np.full((side, side, 3), 128.0)
    for cells, contrast in OCTAVES:
        small = Image.fromarray(chance.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        large = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
        picture += contrast * (large / 255 - 0.5)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _repeated(row: dict[str, Any], number: int, first: float, kept: float) -> dict[str, Any]:
    """The same row under another id, with other scores."""
    scores = {**row["scores"], "score": [first, kept]}
    prompt = f"{number} a cat on a red car next to a bowl"
    stop = "target" if kept > 0.7 else "rounds"
    return {**row, "id": f"{number:08d}-00000000", "prompt": prompt, "scores": scores, "stop": stop}


if __name__ == "__main__":
    main()
