"""``noisesmith retry`` of a run of two parts, whose sessions make up their rows."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from noisesmith.actors.driver import Outcome
from noisesmith.actors.session import Session
from noisesmith.pipeline.cli import app
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import CheckedCorpus, Row
from noisesmith.pipeline.report import Summary, write_report
from noisesmith.pipeline.sinks import RunState, first_config, verify_run
from noisesmith.pipeline.telemetry.console import ConsoleProgress
from noisesmith.pipeline.telemetry.events import RowFailed, RowWritten
from noisesmith.pipeline.telemetry.status import read_status
from tests.extend.conftest import ROWS, extend, made, more_prompts
from tests.sinks.conftest import PROVENANCE, Run, failure
from tests.writing import RunWriter

DEAD = (1, 6)  # one row of each part


class Sessions:
    """Make the rows that parts lack, except those in ``failing``; ``after`` is called when the rows of one are made."""

    def __init__(self) -> None:
        self.parts: list[int] = []
        self.failing: set[int] = set()
        self.after: Callable[[], None] = lambda: None

    def drive(
        self, config: RunConfig, corpus: CheckedCorpus, state: RunState, progress: ConsoleProgress
    ) -> tuple[Outcome, Summary]:
        self.parts.append(state.header.number)
        rows = list(corpus.rows(skip=state.done))
        write(state.run_dir, corpus, rows, self.failing)
        for row in rows:
            if row.index in self.failing:
                progress.tally.count(RowFailed(row.id, 1, "generate", "", "ValueError", "no", seconds=1.0))
            else:
                progress.tally.count(RowWritten(row.id, 1, 1, 0.1, 0.2, 1.0))
        self.after()
        return Outcome(True, PROVENANCE), write_report(state.run_dir, first_config(config), PROVENANCE, {})


def write(run_dir: Path, corpus: CheckedCorpus, rows: Iterable[Row], failing: Iterable[int]) -> None:
    writer = RunWriter(run_dir, corpus.extra_schema, corpus.size, PROVENANCE, corpus.first)
    for row in rows:
        writer.fail(failure(row)) if row.index in failing else writer.put(made(row))


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    found = Sessions()
    monkeypatch.setattr("noisesmith.actors.session.cluster", lambda *_: nullcontext())
    monkeypatch.setattr(Session, "drive", lambda _, *arguments: found.drive(*arguments))
    return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    lines = [{"prompt": f"prompt {n}", "topic": "pets", "n": n} for n in range(ROWS)]
    run = Run(tmp_path, lines, output={"rows_per_shard": 2})
    run.writer()
    write(run.dir, run.corpus, run.rows, DEAD)
    added = extend(run, [more_prompts(run)], rows=0).corpus
    write(run.dir, added, added.rows(), DEAD)
    assert read_status(run.dir).failed == {"OutOfMemoryError": 2}
    return run


def retry(run: Run) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["retry", str(run.dir)])
    return result.exit_code, result.output


def test_a_part_whose_rows_fail_again_keeps_no_other_from_being_tried(run: Run, sessions: Sessions) -> None:
    sessions.failing = {DEAD[0]}
    code, output = retry(run)
    assert (code, sessions.parts) == (1, [0, 1]), output
    assert read_status(run.dir).failed == {"OutOfMemoryError": 1}
    sessions.failing.clear()
    assert retry(run)[0] == 0
    assert sessions.parts == [0, 1, 0]
    assert verify_run(run.dir) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_with_the_last_rows_of_a_part_starts_no_other(
    run: Run, sessions: Sessions, number: signal.Signals
) -> None:
    sessions.after = lambda: signal.raise_signal(number)
    code, output = retry(run)
    assert (code, sessions.parts) == (128 + number, [0])
    assert "stopped; run the same command to resume" in output
    assert retry(run)[0] == 0, "the last part has come to its end"
    assert sessions.parts == [0, 1]
    assert verify_run(run.dir) == []
