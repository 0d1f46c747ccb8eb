"""The figures of a comparison, computed from the rows of its runs, without model, Ray or clock.

Everything is paired: only rows that every variant finished count, values are averaged over seeds prompt by prompt, and
intervals are 95 % bootstrap intervals over prompts (``estimates``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from noisesmith.pipeline.bench.kinds import METHODS, Variant
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import index_of
from noisesmith.pipeline.report.summary import Array, Change, Estimate, Row, best_so_far, estimates

Rows = Mapping[tuple[int, str], Row]  # by (seed, row id)
SHARE = 0.95  # of the final gain
_NO_END = ("perfect", "target", "patience")  # rows that stopped so would be no better for more evaluations


@dataclass(frozen=True)
class Curve:
    """Mean best score so far, with its interval, at each value of ``at``: images after the first, or evaluations."""

    at: tuple[float, ...]
    score: tuple[Estimate, ...]


@dataclass(frozen=True)
class Difference:
    """Variant − reference, paired by prompt. ``budget`` is the U-Net evaluations at which both rows' scores are read.

    A judge sees only the image a row kept in the end, so its differences are as run, at each variant's own budget.
    """

    score: Estimate
    score_at_budget: Estimate
    budget: float
    judges: dict[str, Estimate | None]


@dataclass(frozen=True)
class Figures:
    """One variant. ``parts`` has score and judges by source of the corpus; the reference has no ``difference``.

    ``rounds_to_95`` and ``evaluations_to_95`` are where the mean curve reaches 95 % of its final gain over the first
    image. Both are ``None`` where nothing is gained; ``rounds_to_95`` also for previews and probes, whose gain comes
    at the end by construction. ``noise_norm`` is ‖z_T‖/√D of the kept noise, ``noise_ks`` its Kolmogorov-Smirnov
    distance from N(0, 1). ``vlm_evaluations`` is the number of images scored. ``seconds`` are wall seconds over rows
    written, in the last session of each run, while many rows are in work at once. All of these are means over rows.
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
    asked: int,
    rounds: int,
    steps: int,
    reference: str = METHODS.reference,
) -> Comparison:
    """The figures of ``variants``, the one labelled ``reference`` among them.

    Args:
        rows: by label and (seed, row id) the rows, with the columns of :func:`row_columns`.
        seconds: by label the seconds per row, where known.
        parts: the corpus by source: (name, prompts), in order.
        asked: prompts × seeds, the rows that each variant should have.
        rounds: M, the search rounds of every variant whose rounds are full images.
        steps: T, the sampler steps; with M it gives the budget of the others.

    Raises:
        UserError: no row was finished by every variant.
    """
    shared = shared_keys(rows)
    table = Prompts([row_id for _, row_id in shared], parts)
    searches: dict[str, _Searches] = {}
    for variant in variants:
        budget = variant.optimizer(rounds, steps).get("unet_evaluations")
        searches[variant.label] = _Searches([rows[variant.label][key] for key in shared], budget)
    figures: dict[str, Figures] = {}
    for variant in variants:
        label = variant.label
        figures[label] = _figures(variant, searches, table, judges, seconds[label], steps)
        if label != reference:
            difference = _difference(searches[label], searches[reference], table, judges)
            figures[label] = replace(figures[label], difference=difference)
    return Comparison(table.count, len(shared), asked, figures)


def shared_keys(rows: Mapping[str, Rows]) -> list[tuple[int, str]]:
    """The (seed, row id) that every variant has finished, the seeds of a prompt next to each other.

    Raises:
        UserError: there is none.
    """
    finished = [set(found) for found in rows.values()]
    shared = sorted(set.intersection(*finished), key=lambda key: (key[1], key[0]))
    if not shared:
        raise UserError("no row was finished by every variant; see why in the runs' failed/, and leave out the failing")
    return shared


class Prompts:
    """The prompt, and the source of the corpus, that each of R rows belongs to.

    ``of_rows`` ``[R]`` has the number of each row's prompt, below ``count``. ``parts`` maps each source that has a row
    to a mask ``[P]`` of its prompts.
    """

    def __init__(self, row_ids: Sequence[str], parts: Sequence[tuple[str, int]]) -> None:
        ids, self.of_rows = np.unique(row_ids, return_inverse=True)
        self.count = len(ids)
        self._member = np.eye(self.count)[self.of_rows]  # [R, P]: 1 where the row is of the prompt
        # Row ids begin with the position in the corpus, whose sources follow each other.
        ends = np.cumsum([size for _, size in parts])
        source = np.searchsorted(ends, [index_of(row_id) for row_id in ids], side="right")
        self.parts: dict[str, NDArray[np.bool_]] = {}
        for number, (name, _) in enumerate(parts):
            mask = source == number
            if mask.any():
                self.parts[name] = mask

    def means(self, values: Array) -> Array:
        """``[..., R]`` → ``[..., P]``: each prompt's mean over its seeds, NaN where it has no value."""
        sums = np.nan_to_num(values) @ self._member
        counts = ~np.isnan(values) @ self._member
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a prompt without a value
            means: Array = sums / counts
        return means

    def estimate(self, values: Array) -> Estimate | None:
        """The mean of ``values`` ``[R]`` over prompts; ``None`` where no row has a value."""
        means = self.means(values)
        known = means[~np.isnan(means)]
        return estimates(known[None])[0] if len(known) else None

    def change(self, first: Array, kept: Array, only: NDArray[np.bool_] | None = None) -> Change | None:
        """The change of the rows that have both values ``[R]``, of the prompts in the mask ``only`` ``[P]``."""
        complete = np.where(np.isnan(first + kept), np.nan, np.stack([first, kept]))
        means = self.means(complete)
        wanted = ~np.isnan(means[0])
        if only is not None:
            wanted &= only
        initial, final = means[0, wanted], means[1, wanted]
        if not len(initial):
            return None
        before, after, gain = estimates(np.stack([initial, final, final - initial]))
        return Change(len(initial), before, after, gain)


class _Searches:
    """One variant's rows, with the best score of each after a number of images or of U-Net evaluations.

    Up to ``end`` evaluations the best scores of all rows are known: no row would have gone on before it. By ``start``
    evaluations every row has its first image.
    """

    def __init__(self, rows: Sequence[Row], budget: int | None) -> None:
        self.rows = rows
        self._bests = [np.array(best_so_far(row["scores"], row["steps"])) for row in rows]
        self._spent = [np.cumsum(row["evaluations"]) for row in rows]
        totals = [float(spent[-1]) for spent in self._spent]
        self.start = float(max(spent[0] for spent in self._spent))
        self.end = max(budget or 0.0, *totals)
        for row, total in zip(rows, totals, strict=True):
            if row["stop_reason"] in _NO_END:
                continue
            known_until = total
            if row["stop_reason"] == "budget" and budget is not None:
                known_until = budget  # the rest of the budget did not suffice for another image
            self.end = min(self.end, known_until)

    def column(self, name: str) -> Array:
        """A numeric column ``[R]``, NaN for null."""
        return np.array([row[name] for row in self.rows], dtype=np.float64)

    def after_image(self, image: int) -> Array:
        """Best scores ``[R]``; a row that stopped earlier counts with its best."""
        return np.array([bests[min(image, len(bests) - 1)] for bests in self._bests])

    def after_evaluations(self, spent: float) -> Array:
        """Best scores ``[R]`` after ``spent`` U-Net evaluations; 0 where they do not suffice for an image."""
        scores: list[float] = []
        for totals, bests in zip(self._spent, self._bests, strict=True):
            made = int(np.searchsorted(totals, spent, side="right"))
            scores.append(bests[made - 1] if made else 0.0)
        return np.array(scores)

    @property
    def images(self) -> int:
        """Images of the row that has the most."""
        return max(map(len, self._bests))


def _figures(
    variant: Variant,
    searches: Mapping[str, _Searches],
    table: Prompts,
    judges: Sequence[str],
    seconds: float | None,
    steps: int,
) -> Figures:
    ours = searches[variant.label]
    by_round = _curve(table, [float(image) for image in range(ours.images)], lambda image: ours.after_image(int(image)))
    by_evaluations = _curve(table, _grid(ours.start, ours.end, steps), ours.after_evaluations)
    columns = {"score": (ours.column("score_initial"), ours.column("score"))}
    for name in judges:
        columns[name] = (ours.column(f"judge_{name}_initial"), ours.column(f"judge_{name}"))
    changes = {name: table.change(first, kept) for name, (first, kept) in columns.items()}
    score = changes.pop("score")
    assert score is not None  # every row has scores; only a judge may have none
    parts: dict[str, dict[str, Change | None]] = {}
    for part, only in table.parts.items():
        parts[part] = {name: table.change(first, kept, only) for name, (first, kept) in columns.items()}
    reached = None if variant.short_rounds else _reach(by_round)
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
        parts=parts,
    )


def _difference(ours: _Searches, theirs: _Searches, table: Prompts, judges: Sequence[str]) -> Difference:
    budget = min(ours.end, theirs.end)
    score = table.estimate(ours.column("score") - theirs.column("score"))
    at_budget = table.estimate(ours.after_evaluations(budget) - theirs.after_evaluations(budget))
    assert score is not None
    assert at_budget is not None
    judged: dict[str, Estimate | None] = {}
    for name in judges:
        column = f"judge_{name}"
        judged[name] = table.estimate(ours.column(column) - theirs.column(column))
    return Difference(score, at_budget, budget, judged)


def _curve(table: Prompts, at: Sequence[float], scores_at: Callable[[float], Array]) -> Curve:
    """The mean over prompts of the best scores ``[R]`` that ``scores_at`` gives for each value of ``at``."""
    points = [table.estimate(scores_at(value)) for value in at]
    return Curve(tuple(at), tuple(point for point in points if point is not None))


def _grid(start: float, end: float, step: float) -> list[float]:
    """``start``, ``end``, and the multiples of ``step`` between them."""
    inner = np.arange(math.ceil(start / step), math.floor(end / step) + 1) * step
    return sorted({start, *inner.tolist(), max(start, end)})


def _reach(curve: Curve) -> float | None:
    """Where the curve first has 95 % of its final gain; ``None`` where it gains nothing."""
    means = [point.mean for point in curve.score]
    gain = means[-1] - means[0]
    if gain <= 0:
        return None
    enough = means[0] + SHARE * gain
    return next(at for at, mean in zip(curve.at, means, strict=True) if mean >= enough)
