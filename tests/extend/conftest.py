"""Finished runs with made-up rows, and their extensions, without models and without Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noisesmith.pipeline.extend import Extension, find_extension
from noisesmith.pipeline.noise import digest, replay
from noisesmith.pipeline.records import Result, Row, index_of
from tests.sinks.conftest import PROVENANCE, Run, result, s3, url  # noqa: F401 (fixtures)
from tests.writing import RunWriter

ROWS = 5


@pytest.fixture(autouse=True)
def no_models_and_no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are checked by other tests; no test here cuts the power."""
    monkeypatch.setattr("noisesmith.pipeline.extend.extension.check_models", lambda _: SimpleNamespace(generator=None))
    monkeypatch.setattr("noisesmith.pipeline.extend.parts.check_models", lambda _: None)
    monkeypatch.setattr("noisesmith.pipeline.extend.extension.check_lengths", lambda *_: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """``make_run(**config)``: a finished run of five rows in shards of two, with scores 0, 0.2, 0.4, 0.6 and 0.8."""

    def make(**changes: Any) -> Run:
        lines = [{"prompt": f"prompt {n}", "topic": "pets", "n": n} for n in range(ROWS)]
        output = {"rows_per_shard": 2} | changes.pop("output", {})
        run = Run(tmp_path, lines, output=output, **changes)
        writer = run.writer()
        for row in run.rows:
            writer.put(made(row))
        return run

    return make


def more_prompts(run: Run, name: str = "more.jsonl", **columns: Any) -> str:
    """Write a list of three further prompts, and return the override that names it."""
    path = run.dir.parent / name
    columns = columns or {"topic": "cars", "n": 7}
    path.write_text("".join(json.dumps({"prompt": f"{name} {n}", **columns}) + "\n" for n in range(3)))
    return f"corpus.source={path}"


def made(row: Row) -> Result:
    """A finished row whose every value follows from its index. One that continues another gains 0.1 in two rounds."""
    plain = result(row, score=row.index % ROWS / ROWS)
    if row.parent is None:
        return plain
    earlier = row.parent.recipe
    recipe = replace(
        earlier,
        rounds=(*earlier.rounds, row.parent.rounds + 2),
        gammas=(*earlier.gammas, 0.25),
        indices=(*earlier.indices, row.index),
    )
    recipe = replace(recipe, digest=digest(replay(recipe, row.search_id)))
    before = (index_of(row.search_id) % ROWS + (len(earlier.rounds) - 1) / 2) / ROWS
    score = before + 0.1
    return replace(plain, recipe=recipe, rounds=row.parent.rounds + 2, scores=(before, score), score=score)


def extend(run: Run, overrides: Sequence[str], below: float | None = None, rows: int = 100) -> Extension:
    """Extend a run by a part, or go on with it, and make at most so many of its rows."""
    return extend_dir(run.dir, overrides, below, rows)


def extend_dir(run_dir: Path, overrides: Sequence[str], below: float | None = None, rows: int = 100) -> Extension:
    """The same for a run in any directory."""
    found = find_extension(run_dir, overrides, below)
    with found.hold(print) as state:
        corpus = found.corpus
        writer = RunWriter(run_dir, corpus.extra_schema, corpus.size, PROVENANCE, corpus.first)
        writer.finish()
        for row in list(corpus.rows(skip=state.done))[:rows]:
            writer.put(made(row))
    return found


def make_missing(run: Run) -> None:
    """Make the rows that the first part of a run lacks."""
    writer = run.writer()
    writer.finish()
    for row in run.corpus.rows(skip=writer.done):
        writer.put(made(row))
