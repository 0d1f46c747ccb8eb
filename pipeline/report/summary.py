"""The figures of a run: first and kept scores with intervals, judges beside them, curves, stop reasons."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

RESAMPLES = 10_000
BOOTSTRAP_ROWS = 5_000  # above this many rows the mean is normal to within the resampling noise, at no cost
_CHUNK_VALUES = 2_000_000
_NORMAL_975 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """What one scorer said of the first and the kept images of ``rows`` rows. ``gain`` is paired: kept − first.

    ``agreement`` is a judge's alone: the shares of first and of kept images where it and the steering score are on
    the same side of 0.5. Where the second falls behind the first, the search has fooled the scorer.
    """

    rows: int
    first: Estimate
    kept: Estimate
    gain: Estimate
    agreement: tuple[float, float] | None = None


@dataclass(frozen=True)
class Summary:
    """The figures of a run; ``None`` where no row has any.

    ``curve[r]`` is the mean best score after image r; a row that stopped earlier counts with its best, and a preview
    counts for nothing until it is made again at full T.
    ``noise_norm`` (‖z_T‖/√D) and ``noise_std`` are means over the kept noises; both are 1 under N(0, I).
    """

    rows: int
    score: Change | None
    judges: dict[str, Change | None]
    mean_rounds: float | None
    stop_reasons: dict[str, int]
    noise_norm: float | None
    noise_std: float | None
    curve: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, ready for JSON."""
        plain = asdict(self) | {"curve": list(self.curve)}
        for change in (plain["score"], *plain["judges"].values()):
            if change and change["agreement"]:
                change["agreement"] = list(change["agreement"])
        return plain


def columns(judges: Iterable[str]) -> list[str]:
    """The columns that :func:`summarise` reads; no images among them."""
    pairs = (f"judge_{judge}{suffix}" for judge in judges for suffix in ("_initial", ""))
    return ["score_initial", "score", "scores", "steps", "rounds", "stop_reason", "noise", *pairs]


def summarise(rows: Iterable[Mapping[str, Any]], judges: list[str]) -> Summary:
    """One pass over ``rows`` (see :func:`columns`); scores in [0, 1], judge scores may be null."""
    steering: list[tuple[float, float]] = []
    judged: dict[str, list[tuple[float, float]]] = {judge: [] for judge in judges}
    agreed: dict[str, list[tuple[bool, bool]]] = {judge: [] for judge in judges}
    rounds: list[int] = []
    noises: list[tuple[float, float]] = []
    reasons: Counter[str] = Counter()
    curve = _Curve()
    for row in rows:
        steering.append((row["score_initial"], row["score"]))
        rounds.append(row["rounds"])
        noises.append((row["noise"]["norm"], row["noise"]["std"]))
        reasons[row["stop_reason"]] += 1
        curve.add(zip(row["scores"], row["steps"], strict=True))
        for judge, pairs in judged.items():
            pair = (row[f"judge_{judge}_initial"], row[f"judge_{judge}"])
            if None not in pair:
                pairs.append(pair)
                first, kept = ((score > 0.5) == (said > 0.5) for score, said in zip(steering[-1], pair, strict=True))
                agreed[judge].append((first, kept))
    norm, std = np.mean(noises, axis=0).tolist() if noises else (None, None)
    return Summary(
        rows=len(steering),
        score=_change(steering),
        judges={judge: _change(pairs, agreed[judge]) for judge, pairs in judged.items()},
        mean_rounds=float(np.mean(rounds)) if rounds else None,
        stop_reasons=dict(reasons.most_common()),
        noise_norm=norm,
        noise_std=std,
        curve=curve.mean(),
    )


def estimates(values: NDArray[np.float64], seed: int = 0) -> list[Estimate]:
    """Mean and 95 % interval of each row of ``values`` ``[K, N]``, N ≥ 1; the K rows are resampled together.

    Percentile bootstrap (Efron & Tibshirani 1993, §13.3) of 10,000 resamples; mean ± 1.96 standard errors above
    5,000 values.
    """
    means, n = values.mean(axis=1), values.shape[1]
    if n > BOOTSTRAP_ROWS:
        errors = _NORMAL_975 * values.std(axis=1, ddof=1) / np.sqrt(n)
        low, high = means - errors, means + errors
    else:
        rng = np.random.default_rng(seed)
        size = max(1, _CHUNK_VALUES // n)
        chunks = [
            values[:, rng.integers(n, size=(min(size, RESAMPLES - start), n), dtype=np.int32)].mean(axis=2)
            for start in range(0, RESAMPLES, size)
        ]
        low, high = np.percentile(np.concatenate(chunks, axis=1), [2.5, 97.5], axis=1)
    return [Estimate(*map(float, triple)) for triple in zip(means, low, high, strict=True)]


def best_so_far(scores: Sequence[float], steps: Sequence[int]) -> list[float]:
    """A row's best score after each of its images; a preview counts for nothing until it is made again at full T.

    Args:
        steps: sampler steps of each image; the first has full T.
    """
    full = (score if step == steps[0] else 0.0 for score, step in zip(scores, steps, strict=True))
    return list(itertools.accumulate(full, max))


def summary_table(summary: Summary) -> Table:
    """The summary for a terminal of 80 columns."""
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", title_style="bold", caption_justify="left")
    table.title = "Mean score with 95 % interval"
    table.add_column("")
    for heading in ("first image", "kept image", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, change in labelled(summary):
        if change is None:
            table.add_row(label, "no scores", "", "")
        else:
            table.add_row(label, shown(change.first), shown(change.kept), shown(change.gain, sign="+"))
    table.caption = "\n".join(notes(summary))
    return table


def labelled(summary: Summary) -> list[tuple[str, Change | None]]:
    """The steering score and every judge's, each with the name readers see."""
    return [("VQA score", summary.score), *((f"judge {name}", change) for name, change in summary.judges.items())]


def shown(estimate: Estimate, sign: str = "") -> str:
    """``0.523 [0.48, 0.57]``; ``sign="+"`` writes the sign of a positive mean."""
    return f"{estimate.mean:{sign}.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def notes(summary: Summary) -> list[str]:
    """What the table's numbers leave out, one sentence a line."""
    if summary.mean_rounds is None:
        return ["No row finished."]
    reasons = ", ".join(f"{reason} {count}" for reason, count in summary.stop_reasons.items())
    lines = [
        f"{summary.rows} rows, {summary.mean_rounds:.1f} rounds a row; stopped by: {reasons}.",
        f"Kept noise: norm {summary.noise_norm:.3f}, std {summary.noise_std:.3f} (1 and 1 for fresh noise).",
    ]
    for name, change in summary.judges.items():
        if change is not None and change.rows < summary.rows:
            lines.append(f"Judge {name} could read {change.rows} of {summary.rows} rows.")
        if change is not None and change.agreement is not None:
            first, kept = change.agreement
            lines.append(f"Judge {name} and the VQA score agree on {first:.1%} of first and {kept:.1%} of kept images.")
    return lines


def _change(pairs: list[tuple[float, float]], agreed: Sequence[tuple[bool, bool]] = ()) -> Change | None:
    if not pairs:
        return None
    initial, final = np.asarray(pairs, dtype=np.float64).T
    first, kept, gain = estimates(np.stack([initial, final, final - initial]))
    shares = np.mean(agreed, axis=0).tolist() if agreed else None
    return Change(len(pairs), first, kept, gain, shares and (shares[0], shares[1]))


class _Curve:
    """Mean of the best score so far, by round, over rows of different lengths, without keeping the rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._live: list[float] = []  # sum of best-so-far over the rows that had this round
        self._ended: list[float] = []  # sum of the bests of the rows whose last round this was

    def add(self, images: Iterable[tuple[float, int]]) -> None:
        """A row's images as (score, sampler steps); the first image has full T."""
        bests = best_so_far(*zip(*images, strict=True))
        grow = len(bests) - len(self._live)
        self._live += [0.0] * grow
        self._ended += [0.0] * grow
        for round_, best in enumerate(bests):
            self._live[round_] += best
        self._ended[len(bests) - 1] += bests[-1]
        self._rows += 1

    def mean(self) -> tuple[float, ...]:
        if not self._rows:
            return ()
        carried = itertools.accumulate([0.0, *self._ended[:-1]])
        return tuple((live + best) / self._rows for live, best in zip(self._live, carried, strict=True))
