"""What follows from a simulation of the driver, from made-up ones whose figures are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisesmith.pipeline.bench.driver import DriverOptions, Sample, Simulated, Work, figures_of, write_driver
from noisesmith.pipeline.bench.tables import Machine
from noisesmith.pipeline.cli.bench_driver import bench_driver
from noisesmith.pipeline.errors import UserError

MEBIBYTE = 2**20


def sample(second: int, **changes: Any) -> Sample:
    """The driver after ``second`` seconds: it takes 0.2 s of CPU time and ends 2 rows per second."""
    made = Sample(
        time=100.0 + second,
        cpu_seconds=0.2 * second,
        daemon_seconds=0.1 * second,
        worker_seconds=0.3 * second,
        rss_bytes=300 * MEBIBYTE,
        wakeups=6 * second,
        answers=8 * second,
        images=4 * second,
        ended=2 * second,
        waiting=100 - 2 * second,
        in_flight=8,
        queues={},
    )
    return replace(made, **changes)


def back_to_back(gpu: int, stage: str, rows: int, seconds: float = 1.0, pause: float = 0.0) -> list[Work]:
    """Calls of one GPU over the 50 seconds that the samples cover."""
    return [Work(gpu, stage, 100 + second, seconds - pause, rows) for second in range(50)]


def simulation(gpus: int = 2, work: list[Work] | None = None, **changes: Any) -> Simulated:
    options = DriverOptions(gpus, rows=200, call_seconds=1.0, batch_size=4)
    work = work or [*back_to_back(0, "generate", 4), *back_to_back(1, "score", 4)]
    made = Simulated(options, began=100.0, ended=150.0, samples=[sample(second) for second in range(51)], work=work)
    return replace(made, **changes)


def test_gpus_that_never_wait_and_full_batches_are_the_ideal_schedule() -> None:
    figures = figures_of(simulation())
    assert figures.busy == pytest.approx(1.0)
    assert figures.of_ideal == pytest.approx(1.0)
    assert figures.whole_run == pytest.approx(1.0)
    assert figures.images_per_gpu == pytest.approx(0.5), "every image passes two GPUs"


def test_pauses_and_batches_that_are_not_full_both_miss_the_ideal() -> None:
    work = [*back_to_back(0, "generate", 4, pause=0.2), *back_to_back(1, "score", 3)]
    figures = figures_of(simulation(work=work))
    assert figures.generators_busy == pytest.approx(0.8)
    assert figures.scorers_busy == pytest.approx(1.0)
    assert figures.of_ideal == pytest.approx(0.8), "of the side that has more to do"
    assert figures.busy == pytest.approx(0.8)
    assert figures.mean_batch == pytest.approx(3.5)


def test_a_side_whose_gpus_wait_for_the_other_is_not_the_slower_one() -> None:
    generating = back_to_back(0, "generate", 4)
    scoring = [call for gpu in (1, 2) for call in back_to_back(gpu, "score", 4, pause=0.5)]
    figures = figures_of(simulation(gpus=3, work=[*generating, *scoring]))
    assert figures.busy == pytest.approx(1.0)
    assert figures.scorers_busy == pytest.approx(0.5)


def test_one_gpu_that_does_both_in_turn_is_one_side() -> None:
    calls = back_to_back(0, "generate", 4)
    in_turn = [replace(call, stage="score") if number % 2 else call for number, call in enumerate(calls)]
    figures = figures_of(simulation(gpus=1, work=in_turn))
    assert figures.busy == pytest.approx(1.0)
    assert figures.generators_busy == pytest.approx(0.5, abs=0.02)


def test_start_and_end_are_no_part_of_the_steady_state() -> None:
    """Work before the first images and after the last admission counts for the whole run only."""
    idle_at_both_ends = [call for call in simulation().work if 102 <= call.began < 140]
    samples = [sample(second, waiting=0 if second > 40 else 1) for second in range(51)]
    figures = figures_of(simulation(samples=samples, work=idle_at_both_ends))
    assert figures.seconds == 38, "from 8 images at 2 s to 40 s"
    assert figures.busy == pytest.approx(1.0)
    assert figures.whole_run == pytest.approx(38 / 50)


def test_costs_are_differences_over_the_steady_state() -> None:
    growing = [sample(second, rss_bytes=(300 + second) * MEBIBYTE) for second in range(51)]
    figures = figures_of(simulation(samples=growing))
    assert figures.driver_cores == pytest.approx(0.2)
    assert figures.daemons_cores == pytest.approx(0.1)
    assert figures.workers_cores == pytest.approx(0.3)
    assert figures.driver_ms_per_call == pytest.approx(100.0), "two calls per second"
    assert figures.wakeups_per_row == pytest.approx(3.0)
    assert figures.answers_per_row == pytest.approx(4.0)
    assert 30 < figures.rss_last - figures.rss_first < 45


def test_a_simulation_without_a_steady_state_is_refused() -> None:
    with pytest.raises(UserError, match="--rows"):
        figures_of(simulation(samples=[sample(second, waiting=0) for second in range(51)]))


@pytest.mark.parametrize(
    ("option", "numbers"),
    [
        ("--gpus", {"gpus": 0}),
        ("--gpus", {"gpus": 8193}),
        ("--call-seconds", {"call_seconds": 0.0}),
        ("--call-seconds", {"call_seconds": float("nan")}),
        ("--spread", {"spread": 1.0}),
        ("--batch-size", {"batch_size": 0}),
        ("--processes", {"processes": 0}),
        ("--rows", {"rows": 255}),
    ],
)
def test_numbers_that_mean_nothing_are_refused(option: str, numbers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{option}: "):
        DriverOptions(**{"gpus": 8} | numbers)


@pytest.mark.parametrize(("option", "given"), [("--gpus", {"gpus": "64,many"}), ("--repeats", {"repeats": 0})])
def test_the_command_refuses_before_it_simulates(option: str, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{option}: "):
        bench_driver(**given)


def test_every_gpu_has_a_worker_and_the_rows_are_enough_for_all() -> None:
    for gpus in (1, 2, 3, 64, 1024):
        options = DriverOptions(gpus)
        assert options.generators + options.scorers == max(2, gpus)
        assert options.corpus_rows >= 6 * gpus * options.batch_size


@pytest.fixture
def one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisesmith.pipeline.bench.driver.tables.this_machine", lambda: Machine("a CPU", 2, []))


@pytest.mark.usefixtures("one_machine")
def test_the_table_has_a_line_per_number_of_gpus_with_the_spread_of_repeats(tmp_path: Path) -> None:
    first = simulation()
    again = replace(first, options=replace(first.options, seed=1), ended=200.0)
    other = simulation(gpus=3)
    text, plain = write_driver([first, again, other], tmp_path / "new")
    table = [line for line in text.read_text().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    head, _, two, three = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)
    cells = dict(zip(head, two, strict=True))
    assert cells["GPUs"] == "2"
    assert cells["whole run"] == "0.750 (0.500 to 1.000)"
    assert cells["per GPU"].startswith("1.000")
    assert dict(zip(head, three, strict=True))["per GPU"] == f"{2 / 3:.3f}", "as many images with three GPUs"
    written = json.loads(plain.read_text())
    assert [made["options"]["seed"] for made in written["simulations"]] == [0, 1, 0]
    assert written["conditions"]["machine"] == {"cpu": "a CPU", "cores": 2, "gpus": []}
    assert len(written["simulations"][0]["samples"]) == 51
