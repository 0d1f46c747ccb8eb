"""Partitions with made-up rows, without models and without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.merge import Merged
from noisesmith.pipeline.merge import merge as merge_partitions
from tests.sinks.conftest import Run, failure, make_run, no_waiting_for_disks, result, s3, url  # noqa: F401 (fixtures)

FAILED = 6  # the row that fails in every run here
MakeDealt = Callable[..., list[Run]]


def fill(run: Run, rows: int = 100) -> Run:
    """Make at most so many of a run's missing rows."""
    writer = run.writer()
    for row in list(run.corpus.rows(skip=writer.done))[:rows]:
        writer.fail(failure(row)) if row.index == FAILED else writer.put(result(row))
    return run


@pytest.fixture
def make_dealt(make_run: Callable[..., Run], tmp_path: Path) -> MakeDealt:  # noqa: F811 (the fixture)
    """``make_dealt(of=2, folder=…)``: the finished partitions of ten rows in three shards, one row failed."""

    def make(of: int = 2, folder: str = str(tmp_path), **changes: Any) -> list[Run]:
        output = changes.pop("output", {})
        runs = []
        for number in range(1, of + 1):
            where = {"dir": f"{folder}/part-{number}"}
            runs.append(fill(make_run(partition=f"{number}/{of}", output=output | where, **changes)))
        return runs

    return make


def merge(runs: list[Run], out: Path, **options: Any) -> Merged:
    return merge_partitions([run.dir for run in runs], out, print, **options)
