"""What labels say of a score: shares with intervals, reliability, thresholds, and fitted calibrations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BINS = 10  # of a reliability diagram
_Z = NormalDist().inv_cdf(0.975)
_EDGE = 1e-7  # scores nearer to 0 or 1 count as this far from it, so that their log-odds are finite
_DIGITS = 6  # of a printed point
_TEMPERATURES = (0.01, 100.0)  # between which one is looked for


@dataclass(frozen=True)
class Share:
    """``hits`` of ``count``, with Wilson's 95 % interval; of nothing the share is ``None``, and can be anything."""

    hits: int
    count: int
    share: float | None
    low: float
    high: float

    def __str__(self) -> str:
        if self.share is None:
            return "unknown (0 images)"
        return f"{self.share:.3f} [{self.low:.2f}, {self.high:.2f}] ({self.hits} of {self.count})"


def share(hits: int, count: int) -> Share:
    """A share with its interval by Wilson (1927): it stays within [0, 1], and is usable for few images."""
    if count == 0:
        return Share(0, 0, None, 0.0, 1.0)
    mean = hits / count
    shrunk = (mean + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(mean * (1 - mean) / count + _Z**2 / (4 * count**2))
    # At 0 and 1 the bound is exact; rounding must not move it beyond.
    return Share(hits, count, mean, min(max(0.0, shrunk - half), mean), max(min(1.0, shrunk + half), mean))


@dataclass(frozen=True)
class Bin:
    """Images whose scores lie in one tenth of [0, 1]: their mean score, and the share labelled 1."""

    score: float
    right: Share


def reliability(scores: Array, labels: Array) -> list[Bin]:
    """The bins of a reliability diagram that hold images, by rising score."""
    places = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = []
    for place in range(BINS):
        chosen = places == place
        if chosen.any():
            bins.append(Bin(float(scores[chosen].mean()), share(int(labels[chosen].sum()), int(chosen.sum()))))
    return bins


@dataclass(frozen=True)
class Cut:
    """What a threshold on a score accepts: precision and recall on the labelled images."""

    threshold: float
    precision: Share
    recall: Share


def threshold_for(scores: Array, labels: Array, precision: float) -> Cut | None:
    """The lowest threshold at which the labelled images that reach it have this precision; ``None`` where none has.

    It is the lowest score that it accepts, rounded down to as few digits as tell this from the score below it.
    """
    best = None
    for lowest in sorted(set(scores.tolist()), reverse=True):
        accepted = scores >= lowest
        hits = int(labels[accepted].sum())
        if hits >= precision * int(accepted.sum()) - 1e-9:
            threshold = _rounded_down(lowest, scores[~accepted].max(initial=-1.0))
            best = Cut(threshold, share(hits, int(accepted.sum())), share(hits, int(labels.sum())))
    return best


def _rounded_down(number: float, above: float) -> float:
    """Round a number down to the fewest decimal places, four at least, that leave it greater than another one."""
    exact = Decimal(repr(number))
    for places in range(4, -int(exact.as_tuple().exponent)):
        rounded = float(exact.quantize(Decimal(10) ** -places, ROUND_FLOOR))
        if rounded > above:
            return rounded
    return number


def fit_temperature(scores: Array, labels: Array) -> float | None:
    """The temperature T for which σ(logit(s) / T) makes the labels most likely (Guo et al. 2017).

    ``None`` where there is none in [0.01, 100]: the score says nothing or the opposite, or it separates the labels.
    """
    log_odds = _log_odds(scores)

    def slope(inverse: float) -> float:
        """Derivative of the negative log-likelihood by 1/T, which rises with 1/T."""
        expected = 0.5 * (1 + np.tanh(inverse * log_odds / 2))
        return float(((expected - labels) * log_odds).sum())

    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(100):
        middle = math.sqrt(low * high)
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return 1 / high


def fit_points(scores: Array, labels: Array) -> list[tuple[float, float]] | None:
    """Isotonic regression as pairs [score, probability], both rising and within (0, 1); ``None`` for fewer than two.

    Pool adjacent violators (Ayer et al. 1955), then one pair per pool at its mean score: between pairs the probability
    rises, where the step function of the pools would have no gradient. A pool of labels 0 or 1 alone counts as if half
    an image were different, since no number of labels shows certainty.
    """
    pools: list[tuple[float, float, int]] = []  # sum of scores, sum of labels, number of images
    for value in np.unique(scores):
        chosen = scores == value
        count = int(chosen.sum())
        pools.append((float(value) * count, float(labels[chosen].sum()), count))
        while len(pools) > 1 and pools[-2][1] * pools[-1][2] >= pools[-1][1] * pools[-2][2]:
            last, before = pools.pop(), pools.pop()
            pools.append((last[0] + before[0], last[1] + before[1], last[2] + before[2]))
    least = 0.5 / len(scores)
    points: list[tuple[float, float]] = []
    for total, right, count in pools:
        score = round(min(max(total / count, 10**-_DIGITS), 1 - 10**-_DIGITS), _DIGITS)
        probability = round(min(max(right / count, least), 1 - least), _DIGITS)
        if not points or (score > points[-1][0] and probability > points[-1][1]):
            points.append((score, probability))
    return points if len(points) > 1 else None


def _log_odds(scores: Array) -> Array:
    inside = np.clip(scores, _EDGE, 1 - _EDGE)
    log_odds: Array = np.log(inside) - np.log1p(-inside)
    return log_odds
