"""A finished run with known scores, and the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from noisesmith.pipeline import cli
from tests.sinks.conftest import Run, result


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten rows: scores 0, 0.1, … 0.9; the judge eye says 0.9 down to 0, and cannot tell of row 7."""
    made = Run(tmp_path, [{"prompt": f"prompt {n}"} for n in range(10)])
    writer = made.writer()
    for row in made.rows:
        value = None if row.index == 7 else (9 - row.index) / 10
        row_result = result(row, score=row.index / 10)
        writer.put(replace(row_result, scores=(0.0, row.index / 10), judges={"eye": (0.5, value)}))
    return made


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str]]:
    """``command(words…)`` gives the exit code and the output of ``noisesmith words…``."""

    def call(*arguments: str | Path) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["noisesmith", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out + printed.err

    return call
