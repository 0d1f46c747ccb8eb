"""Figures from labels against SciPy and brute force."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from noisesmith.pipeline.acceptance.figures import (
    Array,
    fit_points,
    fit_temperature,
    reliability,
    share,
    threshold_for,
)

PAIRS = st.lists(st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.booleans()), min_size=1, max_size=60)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[Array, Array]:
    table = np.array(pairs, dtype=np.float64)
    return table[:, 0], table[:, 1]


def sample(temperature: float, seed: int = 0, count: int = 4000) -> tuple[Array, Array]:
    """Scores of a scorer whose log-odds are ``temperature`` times too large, and labels."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0.3, 1.5, count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-log_odds))).astype(np.float64)
    return 1 / (1 + np.exp(-temperature * log_odds)), labels


@given(st.integers(1, 300).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_the_interval_is_wilsons(figures: tuple[int, int]) -> None:
    hits, count = figures
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    found = share(hits, count)
    assert found.share == hits / count
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= hits / count <= found.high <= 1


def test_a_share_of_nothing_is_unknown() -> None:
    assert str(share(0, 0)) == "unknown (0 images)"
    assert str(share(9, 10)) == "0.900 [0.60, 0.98] (9 of 10)"


@given(PAIRS)
def test_bins_hold_every_image_once(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = arrays(pairs)
    bins = reliability(scores, labels)
    assert sum(one.right.count for one in bins) == len(pairs)
    assert sum(one.right.hits for one in bins) == labels.sum()
    assert sum(one.score * one.right.count for one in bins) == pytest.approx(scores.sum())


@given(PAIRS, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_the_threshold_is_the_lowest_with_that_precision(pairs: list[tuple[float, bool]], wanted: float) -> None:
    scores, labels = arrays(pairs)
    fitting = [value for value in set(scores.tolist()) if labels[scores >= value].mean() >= wanted - 1e-9]
    cut = threshold_for(scores, labels, wanted)
    assert (cut is None) == (not fitting)
    if cut is not None:
        assert min(fitting) - 1e-4 < cut.threshold <= min(fitting)
        chosen = scores >= cut.threshold
        assert (chosen == (scores >= min(fitting))).all(), "a threshold with fewer digits accepts the same images"
        assert (cut.precision.hits, cut.precision.count) == (labels[chosen].sum(), chosen.sum())
        assert (cut.recall.hits, cut.recall.count) == (labels[chosen].sum(), labels.sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_is_the_likeliest(temperature: float) -> None:
    scores, labels = sample(temperature)
    log_odds = np.log(scores) - np.log1p(-scores)

    def loss(log_temperature: float) -> float:
        scaled = log_odds / np.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - labels * scaled).sum())

    best = optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10})
    found = fit_temperature(scores, labels)
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)
    assert found == pytest.approx(temperature, rel=0.15)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
def test_labels_that_fit_no_temperature(labels: list[int]) -> None:
    """They are separated, the wrong way round, or all alike."""
    assert fit_temperature(np.array([0.1, 0.2, 0.8, 0.9]), np.array(labels, dtype=np.float64)) is None


@settings(max_examples=200)
@given(PAIRS)
def test_the_points_are_isotonic_regression(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = arrays(pairs)
    values, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(places, labels) / counts
    expected = optimize.isotonic_regression(means, weights=counts).x
    points = fit_points(scores, labels)
    pools = np.unique(np.round(expected, 9))
    if points is None:
        assert len(pools) == 1
        return
    assert len(points) == len(pools)
    for (score, probability), value in zip(points, pools, strict=True):
        chosen = np.abs(expected - value) < 1e-8
        mean = np.average(values[chosen], weights=counts[chosen])
        assert score == pytest.approx(np.clip(mean, 1e-6, 1 - 1e-6), abs=1e-6)
        assert probability == pytest.approx(np.clip(value, 0.5 / len(pairs), 1 - 0.5 / len(pairs)), abs=1e-6)
    for (one, low), (other, high) in pairwise(points):
        assert 0 < one < other < 1
        assert 0 < low < high < 1
