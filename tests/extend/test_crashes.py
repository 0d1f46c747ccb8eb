"""An extension killed at any step loses nothing of the run, and the same command completes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest

from noisesmith.pipeline.sinks import read_rows, verify_run
from noisesmith.pipeline.sinks.manifest import read_manifest
from tests.extend.conftest import extend, more_prompts
from tests.sinks.conftest import Run
from tests.sinks.test_crashes import Killed, killed_at

MakeRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of the lock does not die with what is killed here; tests of the lock are elsewhere."""
    monkeypatch.setattr("noisesmith.pipeline.sinks.parts.hold", lambda *_: nullcontext())


@pytest.mark.parametrize(("below", "stride"), [(None, 1), (0.3, 4)], ids=["more prompts", "continued"])
def test_killed_at_any_step(make_run: MakeRun, below: float | None, stride: int) -> None:
    """Both begin and fill their part in the same way, so the second is killed at every fourth step only."""
    run = make_run()
    overrides = ["optimizer.rounds=3"] if below else [more_prompts(run)]
    before = list(read_rows(run.dir))
    finished = run.dir.with_name("finished")
    shutil.copytree(run.dir, finished)

    steps = extend_until_killed(run, overrides, below, 10**6)
    whole = list(read_rows(run.dir))
    assert len(whole) > len(before)
    started = 0
    tried = range(0, steps, stride)
    for step in tried:
        shutil.rmtree(run.dir)
        shutil.copytree(finished, run.dir)
        extend_until_killed(run, overrides, below, step)
        assert list(read_rows(run.dir))[:5] == before, f"killed at {step}: a row of the finished run is lost"
        assert not [line for line in verify_run(run.dir) if "not committed yet" not in line]
        started += len(read_manifest(run.dir).parts) > 1
        extend(run, overrides, below)
        assert list(read_rows(run.dir)) == whole
        assert verify_run(run.dir) == []
    assert 0 < started < len(tried), "some were killed before the part began, and some after"


def extend_until_killed(run: Run, overrides: Sequence[str], below: float | None, step: int) -> int:
    with killed_at(step) as done:
        try:
            extend(run, overrides, below)
        except Killed:
            return step
    return done[0]
