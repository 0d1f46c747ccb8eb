"""``placement: auto`` on a real Ray cluster: worker counts follow a calibration, and then what the run measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.preflight import find_models
from noisesmith.pipeline.report.figures import read_operations
from noisesmith.pipeline.sinks import read_rows, verify_run
from noisesmith.pipeline.speed.ladder import BatchTiming, SideTiming
from noisesmith.pipeline.speed.record import speeds_of, write_speeds
from tests.runs import noisesmith, write_config

pytestmark = pytest.mark.slow

ROWS = 20
STEPS = 30  # a generator's call takes many times as long as a scorer's


def run_with(folder: Path, sd: Path, llava: Path, first: float, score: float, rebalance: float) -> tuple[Path, str]:
    """A finished run of four workers, whose calibration says how many seconds the calls take; and its output."""
    folder.mkdir()
    generators = {"count": 2, "num_cpus": 0.25, "batch_size": 1, "steps": STEPS}
    scorers = {"count": 2, "num_cpus": 0.25, "batch_size": 1}
    placement = {"mode": "auto", "rebalance_seconds": rebalance}
    path = write_config(
        folder, sd, llava, rows=ROWS, generators=generators, scorers=scorers, placement=placement, rows_in_flight=6
    )
    config = load_config(path)
    generator = SideTiming((BatchTiming(1, {"first": first, "round": first}, None),), 1, "")
    scoring = {"scorers": SideTiming((BatchTiming(1, {"score": score}, None),), 1, "")}
    write_speeds(folder / "config.calibration.json", speeds_of(config, find_models(config), generator, scoring))
    code, output = noisesmith("run", path)
    assert code == 0, output
    assert verify_run(folder / "run") == []
    return folder / "run", output


def workers_of(run_dir: Path) -> tuple[int, int]:
    operations = read_operations(run_dir)
    return operations["generators"], operations["scorers"]


def events(run_dir: Path, name: str) -> list[dict[str, Any]]:
    lines = (run_dir / "logs" / "run.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == name]


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, tiny_llava: Path) -> tuple[Path, str]:
    """A run whose calibration says that generators take three times as long as scorers."""
    folder = tmp_path_factory.mktemp("right") / "run"
    return run_with(folder, tiny_sd, tiny_llava, first=3.0, score=1.0, rebalance=86400)


def test_the_numbers_of_workers_follow_the_calibration(right: tuple[Path, str]) -> None:
    run_dir, output = right
    assert f"placement: 3 generators + 1 scorers, by {run_dir.parent}/config.calibration.json" in output
    assert workers_of(run_dir) == (3, 1)
    assert events(run_dir, "workers_moved") == []


def test_workers_move_where_the_run_shows_that_the_calibration_is_wrong(
    right: tuple[Path, str], tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    """No row is lost, and all noises are the same: at batch size 1 the rows are equal in every bit."""
    wrong, output = run_with(tmp_path / "wrong", tiny_sd, tiny_llava, first=1.0, score=9.0, rebalance=1)
    assert "placement: 1 generators + 3 scorers, by " in output
    moves = events(wrong, "workers_moved")
    assert moves[0]["before"] == {"generator": 1, "scorer": 3}
    assert moves[0]["after"]["generator"] > 1
    assert sum(moves[0]["after"].values()) == 4
    assert "workers move: generator 1 → " in output
    assert workers_of(wrong) == tuple(moves[-1]["after"].values())
    assert events(wrong, "actor_replaced") == events(wrong, "row_retried") == []
    assert list(read_rows(right[0], None)) == list(read_rows(wrong, None))
