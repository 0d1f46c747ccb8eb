"""Images pass through an export and are not kept; ``python -m tests.load.exports`` measures it with 100,000 rows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from noisesmith.pipeline.export import ExportOptions, export
from noisesmith.pipeline.telemetry.console import search_progress
from tests.load.exports import OPTIONS, write_run

FEW, MANY = 200, 800
SIZE = 48  # pixels; an image has about 7 kB


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {rows: write_run(tmp_path_factory.mktemp("load") / "run", rows, SIZE, per_shard=100) for rows in (FEW, MANY)}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_number_of_images_in_memory_is_bounded(
    runs: dict[int, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 rows more, with 8 MB of images, need less than 1 MB more at the peak."""
    monkeypatch.setattr("noisesmith.pipeline.export.dpo.GROUP_BYTES", 1 << 18)
    peaks: dict[int, list[int]] = {FEW: [], MANY: []}
    # Twice each: the first time pays for what is made once, and a thread of an earlier test may be at work in one.
    for number, rows in enumerate((FEW, FEW, MANY, MANY)):
        options = ExportOptions(to=name, out=tmp_path / str(number), **OPTIONS[name])
        tracemalloc.start()
        export(runs[rows], options, search_progress)
        peaks[rows].append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks[MANY]) < min(peaks[FEW]) + 1_000_000
