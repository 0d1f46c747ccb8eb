"""A run's page while the run works: served to this machine only, and brought up to date."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.report.page import LiveReport, live
from noisesmith.pipeline.telemetry import status
from tests.report.browsing import CHROMIUM, REASON, Opened, chromium
from tests.runs import PATIENCE
from tests.sinks.conftest import Run, result

ROWS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(live, "INTERVAL", 0.05)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Six prompts, two of them finished."""
    made = Run(tmp_path, [{"prompt": f"prompt {number}"} for number in range(ROWS)])
    _finish(made, 0, 2)
    return made


@pytest.fixture
def server(run: Run) -> Iterator[LiveReport]:
    with LiveReport(run.dir, "run", 0) as started:
        thread = threading.Thread(target=started.follow)
        thread.start()
        yield started
    thread.join()


def test_the_page_follows_the_run(run: Run, server: LiveReport) -> None:
    if CHROMIUM is None:
        pytest.skip(REASON)
    with chromium() as browser:
        tab = Opened(browser.new_page())
        page = tab.go(server.url, "images")
        page.locator("#search").fill("prompt")
        assert page.locator("#shown").inner_text() == "2 of 2 rows shown."
        _finish(run, 2, ROWS)
        page.get_by_text("6 of 6 rows shown.").wait_for()
        assert page.locator("#search").input_value() == "prompt"
        assert (
            page.locator("#gallery img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
        )
        assert tab.complaints == []


def test_a_picture_and_news_are_asked_for(run: Run, server: LiveReport) -> None:
    news = json.loads(_get(server, "data"))
    assert len(news["rows"]) == 2
    assert _get(server, f"data?known={news['version']}") == b""
    for kind in ("first", "kept"):
        assert _get(server, f"picture/{kind}/{run.rows[0].id}")[8:12] == b"WEBP"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        _get(server, "picture/kept/00000099-00000000")


def test_another_name_for_this_machine_is_refused(server: LiveReport) -> None:
    """A page of another site may have its own name resolved to 127.0.0.1."""
    assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError, match="421"):
        _get(server, "data", Host="evil.example:80")
    with pytest.raises(urllib.error.HTTPError, match="421"):
        _get(server, "data", Host="evil.example")
    assert _get(server, "data", Host="127.0.0.1")
    assert _get(server, "data", Host="localhost:80")


def test_a_store_that_does_not_answer_for_a_while_ends_nothing(
    run: Run, server: LiveReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(run_dir: Path) -> None:
        raise OSError(errno.EIO, "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(status, "read_owner", ask)
        assert "cannot be read (no answer)" in _await(server, "trouble")["trouble"]
    assert len(_await(server, "rows")["rows"]) == 2


def test_a_port_in_use_is_refused(run: Run, server: LiveReport) -> None:
    port = int(server.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=rf"^--port: {port} cannot be used .*; give another, or none"):
        LiveReport(run.dir, "run", port)


def _finish(run: Run, start: int, stop: int) -> None:
    writer = run.writer()
    for row in run.rows[start:stop]:
        writer.put(result(row))


def _await(server: LiveReport, name: str) -> dict[str, Any]:
    """Ask for news until they have a field of this name."""
    deadline = time.monotonic() + PATIENCE
    while name not in (news := json.loads(_get(server, "data"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return dict(news)


def _get(server: LiveReport, path: str, **headers: str) -> bytes:
    request = urllib.request.Request(server.url + path, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        content: bytes = answer.read()
        return content
