"""``bench gpu`` on the device: every stage takes time, memory is counted, and a batch that does not fit is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisesmith.pipeline.bench.gpu import Bench, run_bench, write_gpu
from noisesmith.pipeline.bench.gpu.cells import Pair, cells_of
from noisesmith.pipeline.bench.gpu.results import OUT_OF_MEMORY, figures_of, read_outcome
from noisesmith.pipeline.bench.gpu.timeline import STAGES, TEXT
from tests.gpu.conftest import Folders

pytestmark = pytest.mark.gpu


def bench_of(device: str, out: Path, sd: Path, scorers: dict[str, object], batches: tuple[int, ...]) -> Bench:
    pair = Pair("tiny", batches, False, {"model": str(sd), "steps": 6, "guidance_scale": 3.0}, scorers)
    return Bench((pair,), out, 60, device)


def test_a_cell_is_measured(device: str, folders: Folders, tmp_path: Path) -> None:
    bench = bench_of(device, tmp_path, folders["sd1"], {"model": str(folders["llava"])}, (1, 2))
    run_bench(bench, print)
    for cell in cells_of(bench.pairs):
        outcome = read_outcome(bench.out, cell)
        assert outcome is not None
        measured = outcome.measured
        assert measured is not None, outcome
        assert all(measured.seconds[stage] > 0 for stage in STAGES)
        assert measured.operations[TEXT] == 0
        assert measured.text_operations > 0
        assert (measured.peak_bytes or 0) > 0 or device == "cpu"
        assert 0 < figures_of(measured, cell.batch, None).roofline < 1
    table = write_gpu(bench.cells(), bench.out, device)[0].read_text()
    assert table.count("| tiny |") == 2


def test_a_cell_that_does_not_fit_is_recorded(device: str, folders: Folders, tmp_path: Path) -> None:
    scorers = {"model": "tests.bench.hungry:Hungry", "allow_code": True}
    bench = bench_of(device, tmp_path, folders["sd1"], scorers, (2, 1))
    run_bench(bench, print)
    larger, smaller = (read_outcome(bench.out, cell) for cell in bench.cells())
    assert larger is not None
    assert larger.outcome == OUT_OF_MEMORY
    assert smaller is not None
    assert smaller.measured is not None
