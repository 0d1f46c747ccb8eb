"""A few hundred hostile configs and corpus files; ``make fuzz`` gives ten thousand."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from tests.fuzz.cases import check_case, check_process

pytestmark = pytest.mark.slow

SEED = 1
CASES = 200


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("COLUMNS", "200")


def test_a_hostile_input_is_planned_and_run_or_refused_in_one_sentence(tmp_path: Path) -> None:
    outcomes = [check_case(SEED, number, tmp_path / str(number)) for number in range(CASES)]
    assert [outcome.fault for case in outcomes for outcome in case if outcome.fault] == []
    codes = [[outcome.code for outcome in case] for case in outcomes]
    assert all(case[1:] in ([0, 0], [2, 2]) for case in codes)  # only the disk can refuse what plan has taken
    assert CASES / 10 < codes.count([0, 0, 0]) < CASES / 2


@pytest.mark.parametrize("number", range(2))
def test_a_process_behaves_no_differently(tmp_path: Path, number: int) -> None:
    within = check_case(SEED, number, tmp_path / "within")[0]
    outcome = check_process(SEED, number, tmp_path / "process")
    assert outcome.fault is None
    assert outcome.code == within.code
