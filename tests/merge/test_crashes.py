"""A merge killed at any step leaves no half run, and the same call completes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.merge import merging, placing
from noisesmith.pipeline.sinks import open_run, read_rows, reopen_failed, verify_run
from noisesmith.pipeline.sinks.done import shards_in
from noisesmith.pipeline.sinks.manifest import read_manifest
from tests.merge.conftest import MakeDealt, merge
from tests.merge.test_merge import data
from tests.sinks.conftest import Run, result
from tests.sinks.test_crashes import Killed, killed_at


@pytest.fixture(autouse=True)
def no_lock_and_one_file_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of the lock does not die with what is killed here; and each step is to be the same in every attempt."""

    @contextmanager
    def hold(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(check=lambda: None)

    monkeypatch.setattr("noisesmith.pipeline.merge.merging.hold", hold)
    monkeypatch.setattr(placing, "FILES_AT_ONCE", 1)


def test_killed_at_any_step(make_dealt: MakeDealt, tmp_path: Path) -> None:
    runs = make_dealt(accept={"score": 0.5})
    before = [data(run.dir) for run in runs]
    out = tmp_path / "merged"
    out.mkdir()
    steps = merge_until_killed(runs, out, 10**6)
    expected = data(out)
    committed = 0
    for step in range(0, steps, 3):  # a file is synced and then replaced, so not every second one
        shutil.rmtree(out)
        out.mkdir()
        merge_until_killed(runs, out, step)
        if (out / "manifest.jsonl").exists():
            committed += 1
            assert len(list(read_rows(out))) == 9
            assert verify_run(out) == []
        else:
            with pytest.raises(UserError, match="is not a run directory"):
                read_manifest(out)
        merge(runs, out)
        assert data(out) == expected
        assert {path.name for path in out.iterdir()} == {
            "README.md", "config.yaml", "contact_sheet.png", "data", "failed", "manifest.jsonl", "side", "stats.json",
            "tars",
        }  # fmt: skip
    assert 0 < committed < steps // 3, "some were killed before the run was there, and some after"
    assert [data(run.dir) for run in runs] == before


def test_a_row_that_was_made_before_the_merge_went_on_is_not_dead(
    make_dealt: MakeDealt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = make_dealt()
    out = tmp_path / "merged"
    out.mkdir()

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_commit", kill)
        with pytest.raises(Killed):
            merge(runs, out)
    assert shards_in(out / "failed") == {1}
    run = runs[1]
    reopen_failed(run.config, run.corpus, open_run(run.config, run.corpus))
    writer = run.writer()
    for row in run.corpus.rows(skip=writer.done):
        writer.put(result(row))
    assert merge(runs, out).failed == 0
    assert shards_in(out / "failed") == set()
    assert verify_run(out) == []


def merge_until_killed(runs: list[Run], out: Path, step: int) -> int:
    with killed_at(step) as done:
        try:
            merge(runs, out)
        except Killed:
            return step
    return done[0]
