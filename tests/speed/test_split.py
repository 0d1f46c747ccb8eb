"""The split of workers, against all splits that there are; and the cost that follows."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.speed.figures import check_price, forecast
from noisesmith.pipeline.speed.split import Budget, Load, best_split, rows_per_second

SECONDS = st.floats(0.01, 100)
GPU_SIDES = st.builds(Load, SECONDS, st.sampled_from([1.0, 2.0]), st.just(1.0))
CPU_SIDES = st.builds(Load, SECONDS, st.just(0.0), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
SIDES = st.lists(GPU_SIDES, min_size=2, max_size=3) | st.lists(CPU_SIDES | GPU_SIDES, min_size=2, max_size=3)


def every_split(loads: list[Load], budget: Budget) -> list[tuple[int, ...]]:
    splits = product(range(1, 17), repeat=len(loads))
    return [
        counts
        for counts in splits
        if sum(n * load.gpus for n, load in zip(counts, loads, strict=True)) <= budget.gpus + 1e-9
        and sum(n * load.cpus for n, load in zip(counts, loads, strict=True)) <= budget.cpus + 1e-9
    ]


@given(SIDES, st.lists(st.integers(1, 4), min_size=3, max_size=3))
def test_no_other_split_makes_more_rows(loads: list[Load], counts: list[int]) -> None:
    given_counts = counts[: len(loads)]
    budget = Budget.of(loads, given_counts)
    found = best_split(loads, budget)
    fitting = every_split(loads, budget)
    assert tuple(found) in fitting or max(found) > 16
    best = max(min(n * load.rate for n, load in zip(each, loads, strict=True)) for each in fitting)
    assert rows_per_second(loads, found) >= best


@given(SIDES, st.lists(st.integers(1, 4), min_size=3, max_size=3))
def test_no_gpu_and_no_core_is_left_over_for_which_there_is_a_worker(loads: list[Load], counts: list[int]) -> None:
    budget = Budget.of(loads, counts[: len(loads)])
    found = best_split(loads, budget)
    for side in range(len(loads)):
        more = [count + (number == side) for number, count in enumerate(found)]
        assert not budget.holds(loads, more)


def test_a_side_that_takes_three_times_as_long_has_three_times_the_workers() -> None:
    loads = [Load(6.0, 1, 1), Load(2.0, 1, 1)]
    assert best_split(loads, Budget(8, 8)) == [6, 2]
    assert best_split(loads, Budget(2, 2)) == [1, 1]


def test_one_worker_of_each_side_must_fit() -> None:
    with pytest.raises(ValueError, match="more than there is room for"):
        best_split([Load(1.0, 1, 1), Load(1.0, 1, 1)], Budget(1, 8))


def test_a_worker_with_half_a_gpu_has_half_of_its_time() -> None:
    assert Load(2.0, 0.5, 1).rate == 0.25
    assert Load(2.0, 2, 1).rate == Load(2.0, 0, 4).rate == 0.5
    assert Load(2.0, 0, 0.5).rate == 0.25


def test_rows_per_hour_and_their_cost_follow_from_the_slowest_side() -> None:
    """Six generators of 12 s per row make 0.5 rows/s, and two scorers of 2 s could make 1."""
    loads = {"generators": Load(12.0, 1, 1), "scorers": Load(2.0, 1, 1)}
    found = forecast(loads, [6, 2], images_per_row=11)
    assert (found.rows_per_hour, found.images_per_hour, found.gpus) == (1800.0, 19800.0, 8)
    assert found.busy == {"generators": 1.0, "scorers": 0.5}
    assert found.cost_per_1000_rows(2.5) == pytest.approx(1000 / 1800 * 8 * 2.5)


def test_cores_are_paid_for_where_no_worker_has_a_gpu() -> None:
    found = forecast({"generators": Load(1.0, 0, 1), "scorers": Load(1.0, 0, 0.5)}, [1, 2], images_per_row=1)
    assert (found.gpus, found.rows_per_hour) == (2.0, 3600.0)


@pytest.mark.parametrize("price", [0.0, -2.5, float("nan"), float("inf")])
def test_what_is_no_price_is_refused(price: float) -> None:
    with pytest.raises(UserError, match=r"^--price: .* is no price; give that of one GPU for an hour, such as 2\.5$"):
        check_price(price)
