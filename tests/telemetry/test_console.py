"""What a run shows while it works, on a terminal and elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from noisesmith.pipeline.telemetry import console as console_module
from noisesmith.pipeline.telemetry.console import ConsoleProgress, clock, search_progress
from noisesmith.pipeline.telemetry.events import Event, ModelsLoading, RowWritten, RunStarted, Snapshot
from tests.runs import PATIENCE

AT_WORK = Snapshot(8, {}, 0.5, 0.25, images_done=16, images_planned=480)


def emit(progress: ConsoleProgress, event: Event) -> None:
    """Count and show an event, as ``Telemetry`` does."""
    progress.tally.count(event)
    progress.emit(event)


def shown(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def plain() -> Console:
    return Console(file=StringIO(), force_terminal=False, width=200)


@pytest.fixture
def terminal() -> Console:
    return Console(file=StringIO(), force_terminal=True, width=200)


def test_plain_lines_count_the_seconds_while_models_load(plain: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "PLAIN_INTERVAL", 0.01)
    with ConsoleProgress(plain) as progress:
        progress.start("starting Ray and loading models")
        emit(progress, ModelsLoading())
        wait_for(lambda: "starting Ray and loading models, 0 s\n" in shown(plain))
    assert shown(plain).startswith("starting Ray and loading models\n")


def test_no_line_follows_once_the_display_is_closed(plain: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "PLAIN_INTERVAL", 0.01)

    def fail() -> None:
        with ConsoleProgress(plain) as progress:
            progress.start("loading models")
            raise ValueError("no model")

    with pytest.raises(ValueError, match="no model"):
        fail()
    time.sleep(0.05)
    before = shown(plain)
    time.sleep(0.1)
    assert shown(plain) == before


def test_plain_lines_show_images_before_a_row_is_done(plain: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    with ConsoleProgress(plain) as progress:
        emit(progress, RunStarted(24, 0))
        emit(progress, AT_WORK)
        assert shown(plain) == "", "a line now and then, not per event"
        monkeypatch.setattr(console_module, "PLAIN_INTERVAL", 0.0)
        emit(progress, AT_WORK)
    assert shown(plain).startswith("images 16/480  rows 0/24  ")
    assert " images/min  ETA " in shown(plain)
    assert shown(plain).endswith("busy gen 50% score 25%\n")


def test_a_resumed_run_says_what_is_done(plain: Console) -> None:
    with ConsoleProgress(plain) as progress:
        emit(progress, RunStarted(24, 8))
    assert shown(plain) == "resuming: 8 of 24 rows are already done\n"


def test_a_terminal_shows_a_spinner_and_then_images_and_rows(terminal: Console) -> None:
    with ConsoleProgress(terminal) as progress:
        progress.start("starting Ray and loading models")
        assert "starting Ray and loading models" in shown(terminal)
        assert "0:00:00" in shown(terminal)
        emit(progress, RunStarted(24, 0))
        emit(progress, RowWritten("00000000-ab", 1, 4, 0.25, 0.75, 1.0))
        emit(progress, AT_WORK)
    text = shown(terminal)
    assert "images 16/480" in text
    assert "rows 1/24" in text
    assert "score 0.250 → 0.750" in text
    assert "ETA" in text


def test_a_search_in_this_process_shows_its_images_on_a_terminal(terminal: Console) -> None:
    with search_progress(6, terminal) as advance:
        advance(2)
        advance(1)
    assert "3/6" in shown(terminal)


def test_a_search_elsewhere_is_silent(plain: Console) -> None:
    with search_progress(6, plain) as advance:
        advance(2)
    assert shown(plain) == ""


def test_durations() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 3600, 90_061)] == [
        "0:00", "1:00", "59:59", "1:00:00", "25:01:01"
    ]  # fmt: skip
