"""The figures of a comparison, from the rows of its runs. Pure: no model, no Ray, no clock.

Everything is paired: only rows that every variant finished count, values are averaged over seeds prompt by prompt, and
intervals are 95 % bootstrap intervals over prompts (``estimates``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noisesmith.pipeline.bench.variants import REFERENCE, Variant
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import index_of
from noisesmith.pipeline.report.summary import Change, Estimate, best_so_far, estimates

Array = NDArray[np.float64]
Rows = Mapping[tuple[int, str], Mapping[str, Any]]
SHARE = 0.95  # of the final gain
_NO_END = ("perfect", "target", "patience")  # rows that stopped so would be no better for more evaluations


@dataclass(frozen=True)
class Curve:
    """Mean best score so far, with its interval, at each place of ``at``: images after the first, or evaluations."""

    at: tuple[float, ...]
    score: tuple[Estimate, ...]


@dataclass(frozen=True)
class Difference:
    """Variant − reference, paired by prompt. ``budget``: U-Net evaluations at which both rows' scores are read.

    A judge sees only the image a row kept in the end, so its differences are as run, at each variant's own budget.
    """

    score: Estimate
    score_at_budget: Estimate
    budget: float
    judges: dict[str, Estimate | None]


@dataclass(frozen=True)
class Figures:
    """One variant. ``parts`` has score and judges by source of the corpus; ``difference`` is absent for the reference.

    ``rounds_to_95`` and ``evaluations_to_95`` tell where the mean curve reaches 95 % of its final gain over the first
    image; ``None`` where nothing is gained, and the former for previews, whose gain comes at the end by construction.
    ``noise_norm`` is ‖z_T‖/√D of the kept noise, ``noise_ks`` its Kolmogorov-Smirnov distance from N(0, 1).
    ``vlm_evaluations`` is the number of images scored. ``seconds`` are wall seconds over rows written, in the last
    session of each run: rows are made side by side. All of these are means over rows.
    """

    rows: int
    score: Change
    judges: dict[str, Change | None]
    by_round: Curve
    by_evaluations: Curve
    rounds_to_95: int | None
    evaluations_to_95: float | None
    noise_norm: float
    noise_ks: float
    unet_evaluations: float
    vlm_evaluations: float
    seconds: float | None
    parts: dict[str, dict[str, Change | None]]
    difference: Difference | None = None


@dataclass(frozen=True)
class Comparison:
    """All variants by label, on the same ``prompts`` and ``rows`` (prompts × seeds) of the ``rows_asked``."""

    prompts: int
    rows: int
    rows_asked: int
    variants: dict[str, Figures]


def compare(
    variants: Sequence[Variant],
    rows: Mapping[str, Rows],
    seconds: Mapping[str, float | None],
    judges: Sequence[str],
    parts: Sequence[tuple[str, int]],
    *,
    rounds: int,
    steps: int,
) -> Comparison:
    """The figures of ``variants``, the reference among them.

    Args:
        rows: by label and (seed, row id) the rows, with the columns of :func:`row_columns`.
        seconds: by label the seconds a row took, where known.
        parts: the corpus by source: (name, prompts), in order.
        rounds, steps: M and T, from which a preview variant's budget follows.

    Raises:
        UserError: no row was finished by every variant.
    """
    shared = sorted(set.intersection(*(set(found) for found in rows.values())), key=lambda key: (key[1], key[0]))
    if not shared:
        raise UserError("no row was finished by every variant; see why in the runs' failed/, and leave out the failing")
    table = _Prompts([row_id for _, row_id in shared], parts)
    searches = {
        variant.label: _Searches(
            [rows[variant.label][key] for key in shared], variant.optimizer(rounds, steps).get("unet_evaluations")
        )
        for variant in variants
    }
    figures = {
        variant.label: _figures(variant, searches, table, judges, seconds[variant.label], steps) for variant in variants
    }
    asked = len(set().union(*rows.values()))
    return Comparison(table.count, len(shared), asked, figures)


class _Prompts:
    """Which prompt, and which source of the corpus, each of R rows belongs to."""

    def __init__(self, row_ids: Sequence[str], parts: Sequence[tuple[str, int]]) -> None:
        ids = sorted(set(row_ids))
        self.count = len(ids)
        place = {row_id: column for column, row_id in enumerate(ids)}
        self._member = np.zeros((len(row_ids), len(ids)))
        self._member[np.arange(len(row_ids)), [place[row_id] for row_id in row_ids]] = 1
        ends = np.cumsum([size for _, size in parts])
        part = np.searchsorted(ends, [index_of(row_id) for row_id in ids], side="right")
        self.parts = {name: part == number for number, (name, _) in enumerate(parts) if (part == number).any()}

    def means(self, values: Array) -> Array:
        """``[..., R]`` → ``[..., P]``: each prompt's mean over its seeds, NaN where it has no value."""
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return (np.nan_to_num(values) @ self._member) / (known @ self._member)

    def estimate(self, values: Array) -> Estimate | None:
        """The mean of ``[R]`` over prompts; ``None`` where no row has a value."""
        means = self.means(values)
        means = means[~np.isnan(means)]
        return estimates(means[None])[0] if len(means) else None

    def change(self, first: Array, kept: Array, only: NDArray[np.bool_] | None = None) -> Change | None:
        """From the rows that have both values, of the prompts in ``only``."""
        pairs = self.means(np.where(np.isnan(first + kept), np.nan, np.stack([first, kept])))
        pairs = pairs[:, ~np.isnan(pairs[0]) & (True if only is None else only)]
        n = pairs.shape[1]
        if not n:
            return None
        before, after, gain = estimates(np.stack([*pairs, pairs[1] - pairs[0]]))
        return Change(n, before, after, gain)


class _Searches:
    """One variant's rows: what each had found after so many images, or so many U-Net evaluations.

    Every row has its first image by ``start`` evaluations, and none would have gone on before ``end``.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], budget: int | None) -> None:
        self.rows = rows
        self._bests = [np.array(best_so_far(row["scores"], row["steps"])) for row in rows]
        self._spent = [np.cumsum(row["evaluations"]) for row in rows]
        totals = [float(spent[-1]) for spent in self._spent]
        ends = dict.fromkeys(_NO_END, math.inf) | {"budget": budget}  # of which the rest did not suffice for an image
        self.start = float(max(spent[0] for spent in self._spent))
        self.end = min(
            max(budget or 0.0, *totals),
            *(ends.get(row["stop_reason"]) or total for row, total in zip(rows, totals, strict=True)),
        )

    def column(self, name: str) -> Array:
        """A numeric column ``[R]``, NaN for null."""
        return np.array([row[name] for row in self.rows], dtype=np.float64)

    def after_image(self, image: int) -> Array:
        """Best scores ``[R]``; a row that stopped earlier counts with its best."""
        return np.array([bests[min(image, len(bests) - 1)] for bests in self._bests])

    def after_evaluations(self, spent: float) -> Array:
        """Best scores ``[R]`` of what ``spent`` U-Net evaluations made; 0 where they do not suffice for an image."""
        made = [int(np.searchsorted(total, spent, side="right")) for total in self._spent]
        return np.array([bests[n - 1] if n else 0.0 for n, bests in zip(made, self._bests, strict=True)])

    @property
    def images(self) -> int:
        return max(map(len, self._bests))


def _figures(
    variant: Variant, searches: Mapping[str, _Searches], table: _Prompts, judges: Sequence[str],
    seconds: float | None, steps: int,
) -> Figures:  # fmt: skip
    ours = searches[variant.label]
    by_round = _curve(table, range(ours.images), ours.after_image)
    by_evaluations = _curve(table, _grid(ours.start, ours.end, steps), ours.after_evaluations)
    columns = {"score": (ours.column("score_initial"), ours.column("score"))}
    columns |= {name: (ours.column(f"judge_{name}_initial"), ours.column(f"judge_{name}")) for name in judges}
    changes = {name: table.change(*pair) for name, pair in columns.items()}
    score = changes.pop("score")
    assert score is not None
    reached = None if variant.previews else _reach(by_round)
    return Figures(
        rows=len(ours.rows),
        score=score,
        judges=changes,
        by_round=by_round,
        by_evaluations=by_evaluations,
        rounds_to_95=None if reached is None else int(reached),
        evaluations_to_95=_reach(by_evaluations),
        noise_norm=float(np.mean([row["noise"]["norm"] for row in ours.rows])),
        noise_ks=float(np.mean([row["noise"]["ks"] for row in ours.rows])),
        unet_evaluations=float(np.mean([sum(row["evaluations"]) for row in ours.rows])),
        vlm_evaluations=float(np.mean([len(row["scores"]) for row in ours.rows])),
        seconds=seconds,
        parts={
            part: {name: table.change(*pair, only) for name, pair in columns.items()}
            for part, only in table.parts.items()
        },
        difference=None if variant.label == REFERENCE else _difference(ours, searches[REFERENCE], table, judges),
    )


def _difference(ours: _Searches, theirs: _Searches, table: _Prompts, judges: Sequence[str]) -> Difference:
    budget = min(ours.end, theirs.end)
    score = table.estimate(ours.column("score") - theirs.column("score"))
    at_budget = table.estimate(ours.after_evaluations(budget) - theirs.after_evaluations(budget))
    assert score is not None
    assert at_budget is not None
    columns = {name: f"judge_{name}" for name in judges}
    judged = {name: table.estimate(ours.column(c) - theirs.column(c)) for name, c in columns.items()}
    return Difference(score, at_budget, budget, judged)


def _curve(table: _Prompts, places: Sequence[float], scores: Any) -> Curve:
    points = [table.estimate(scores(place)) for place in places]
    return Curve(tuple(map(float, places)), tuple(point for point in points if point is not None))


def _grid(start: float, end: float, step: float) -> list[float]:
    """Multiples of ``step`` from the first at or above ``start``, between the two ends themselves."""
    inner = np.arange(math.ceil(start / step), math.floor(end / step) + 1) * step
    return sorted({start, *inner.tolist(), max(start, end)})


def _reach(curve: Curve) -> float | None:
    means = [point.mean for point in curve.score]
    gain = means[-1] - means[0]
    if gain <= 0:
        return None
    return next(at for at, mean in zip(curve.at, means, strict=True) if mean >= means[0] + SHARE * gain)
