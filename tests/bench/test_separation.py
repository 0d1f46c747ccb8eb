"""The AUC against a count of all pairs, and its interval over prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from noisesmith.pipeline.bench.separation import areas, separation

IMAGES = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=25)


def count_pairs(scores: NDArray[np.float64], right: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    won = pairs = 0.0
    for good in np.flatnonzero(right):
        for bad in np.flatnonzero(~right):
            weight = weights[good] * weights[bad]
            pairs += weight
            won += weight * (scores[good] > scores[bad]) + weight / 2 * (scores[good] == scores[bad])
    return won / pairs if pairs else np.nan


@given(IMAGES)
def test_the_area_is_the_share_of_pairs_with_equal_scores_counting_half(images: list[tuple[int, bool, int]]) -> None:
    scores = np.array([score / 4 for score, _, _ in images])
    right = np.array([is_right for _, is_right, _ in images])
    weights = np.array([weight for _, _, weight in images], dtype=np.float64)
    found = areas(scores, right, np.stack([np.ones(len(images)), weights]))
    expected = [count_pairs(scores, right, np.ones(len(images))), count_pairs(scores, right, weights)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_judge_of_one_half_and_more_is_right_and_what_it_could_not_read_is_left_out() -> None:
    found = separation(np.array([0.9, 0.2, 0.3, 0.6]), np.array([0.5, 0.49, np.nan, 0.0]), np.arange(4))
    assert found is not None
    assert (found.images, found.right, found.auc.mean) == (3, 1, 1.0)


@pytest.mark.parametrize("judged", [[1.0, 1.0], [0.0, 0.0], [np.nan, np.nan], [np.nan, 1.0]])
def test_without_right_and_wrong_images_there_is_no_area(judged: list[float]) -> None:
    assert separation(np.array([0.1, 0.2]), np.array(judged), np.arange(2)) is None


def test_the_interval_is_that_of_a_bootstrap_of_the_images() -> None:
    rng = np.random.default_rng(2)
    judged = (rng.random(80) < 0.5).astype(np.float64)
    scores = np.round(judged * 0.3 + rng.random(80), 1)

    def area(chosen: NDArray[np.int64]) -> float:
        right = judged[chosen] >= 0.5
        both = np.concatenate([scores[chosen][right], scores[chosen][~right]])
        ranks = stats.rankdata(both)[: right.sum()].sum()
        return float((ranks - right.sum() * (right.sum() + 1) / 2) / (right.sum() * (~right).sum()))

    resamples = rng.integers(80, size=(2000, 80))
    low, high = np.percentile([area(chosen) for chosen in resamples], [2.5, 97.5])
    found = separation(scores, judged, np.arange(80))
    assert found is not None
    assert found.auc.mean == pytest.approx(area(np.arange(80)))
    assert (found.auc.low, found.auc.high) == pytest.approx((low, high), abs=0.015)


def test_two_images_of_a_prompt_are_not_two_prompts() -> None:
    """Every image twice, as under two seeds with the same result: the interval is as wide as without."""
    rng = np.random.default_rng(3)
    judged = (rng.random(40) < 0.5).astype(np.float64)
    scores = judged * 0.3 + rng.random(40)
    once = separation(scores, judged, np.arange(40))
    twice = separation(np.tile(scores, 2), np.tile(judged, 2), np.tile(np.arange(40), 2))
    assert once is not None
    assert twice is not None
    assert twice.images == 80
    assert (twice.auc.low, twice.auc.high) == pytest.approx((once.auc.low, once.auc.high))
