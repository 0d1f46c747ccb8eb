"""The driver with simulated workers, on a real cluster."""

from __future__ import annotations

import io
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from rich.console import Console

from noisesmith.actors.simulation import simulate
from noisesmith.pipeline.bench.driver import DriverOptions, Work
from noisesmith.pipeline.telemetry.console import ConsoleProgress

pytestmark = pytest.mark.slow


def rows_of(work: list[Work], stage: str) -> int:
    return sum(call.rows for call in work if call.stage == stage)


def test_every_row_is_searched_and_no_gpu_does_two_things_at_once(tmp_path: Path) -> None:
    options = DriverOptions(gpus=9, rows=72, call_seconds=0.02, batch_size=2, processes=2)
    progress = ConsoleProgress(Console(file=io.StringIO()))
    simulated = simulate(options, tmp_path, progress)
    tally = progress.tally
    assert (tally.rows, tally.retries, tally.failed.total()) == (72, 0, 0)
    assert rows_of(simulated.work, "generate") == rows_of(simulated.work, "score") == tally.images_done
    assert tally.images_done == tally.rows + tally.rounds > 72, "some rows end at their first image, others later"
    assert max(call.rows for call in simulated.work) == 2
    by_gpu = sorted(simulated.work, key=lambda call: (call.gpu, call.began))
    for gpu, found in groupby(by_gpu, key=lambda call: call.gpu):
        calls = list(found)
        assert {call.stage for call in calls} == {"generate" if gpu < 4 else "score"}
        for before, after in pairwise(calls):
            assert after.began >= before.began + before.seconds
    assert {call.gpu for call in simulated.work} == set(range(9))
    first = simulated.samples[0]
    assert (first.images, first.ended, first.in_flight + first.waiting) == (0, 0, 72)
    assert (tmp_path / "run" / "logs" / "run.jsonl").read_text().count('"row_written"') == 72
