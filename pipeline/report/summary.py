"""The figures of a run: first and kept scores with intervals, judges next to them, curves, stop reasons."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from noisesmith.pipeline.schema import TOKENS_CUT

RESAMPLES = 10_000
BOOTSTRAP_ROWS = 5_000  # above this many rows the mean is normal to within the resampling noise, at no cost
_CHUNK_VALUES = 2_000_000  # values resampled at once: 16 MB of float64
_NORMAL_975 = NormalDist().inv_cdf(0.975)

Row = Mapping[str, Any]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """One scorer's scores of the first and the kept images of ``rows`` rows. ``gain`` is paired: kept − first.

    ``agreement`` exists for a judge only: the shares of first and of kept images where it and the steering score are
    on the same side of 0.5. Where the second share is below the first, the search has fooled the scorer.
    """

    rows: int
    first: Estimate
    kept: Estimate
    gain: Estimate
    agreement: tuple[float, float] | None = None


@dataclass(frozen=True)
class Summary:
    """The figures of a run; ``None`` where no row has a value.

    ``curve[r]`` is the mean best score after image r; a row that stopped earlier counts with its best score, and a
    preview or a probe counts for nothing until it is made at full steps.
    ``members`` are the scorers of a panel, empty for one scorer.
    ``truncated`` counts the rows whose prompt the diffusion model has not read to its end.
    ``noise_norm`` (‖z_T‖/√D) and ``noise_std`` are means over the kept noises; both are 1 under N(0, I).
    """

    rows: int
    score: Change | None
    members: dict[str, Change | None]
    judges: dict[str, Change | None]
    mean_rounds: float | None
    stop_reasons: dict[str, int]
    noise_norm: float | None
    noise_std: float | None
    curve: tuple[float, ...]
    truncated: int | None = None

    def to_dict(self) -> dict[str, object]:
        """The same figures as dictionaries, lists, strings and numbers, equal to what JSON reads back."""
        plain = asdict(self)
        if not self.members:
            del plain["members"]
        plain["curve"] = list(self.curve)
        for change in (plain["score"], *plain.get("members", {}).values(), *plain["judges"].values()):
            if change is not None and change["agreement"] is not None:
                change["agreement"] = list(change["agreement"])
        return plain


def columns(judges: Iterable[str], members: Iterable[str] = ()) -> list[str]:
    """The columns that :func:`summarise` reads; no images among them."""
    names = ["score_initial", "score", "scores", "steps", "rounds", "stop_reason", "noise"]
    for member in members:
        names += [f"score_{member}_initial", f"score_{member}"]
    for judge in judges:
        names += [f"judge_{judge}_initial", f"judge_{judge}"]
    return names


def summarise(rows: Iterable[Row], judges: Sequence[str], members: Sequence[str] = ()) -> Summary:
    """The figures of ``rows``, read in one pass.

    Args:
        rows: with the :func:`columns` of these judges and of these members of a panel; scores in [0, 1], judge scores
            may be null. A run of an older version has no ``prompt_tokens_cut``.
    """
    steering = _Pairs()
    steered = {member: _Pairs() for member in members}
    judged = {judge: _Pairs() for judge in judges}
    rounds: list[int] = []
    norms: list[float] = []
    deviations: list[float] = []
    reasons: Counter[str] = Counter()
    curve = _Curve()
    cut: list[int] = []
    for row in rows:
        guide = (row["score_initial"], row["score"])
        steering.add(guide)
        rounds.append(row["rounds"])
        norms.append(row["noise"]["norm"])
        deviations.append(row["noise"]["std"])
        reasons[row["stop_reason"]] += 1
        curve.add(row["scores"], row["steps"])
        if row.get(TOKENS_CUT) is not None:
            cut.append(row[TOKENS_CUT])
        for member, pairs in steered.items():
            pairs.add((row[f"score_{member}_initial"], row[f"score_{member}"]))
        for judge, pairs in judged.items():
            first, kept = row[f"judge_{judge}_initial"], row[f"judge_{judge}"]
            # A judge that cannot read one of the two images says nothing about the change.
            if first is not None and kept is not None:
                pairs.add((first, kept), guide)
    return Summary(
        rows=len(rounds),
        score=steering.change(),
        members={member: pairs.change() for member, pairs in steered.items()},
        judges={judge: pairs.change() for judge, pairs in judged.items()},
        mean_rounds=_mean(rounds),
        stop_reasons=dict(reasons.most_common()),
        noise_norm=_mean(norms),
        noise_std=_mean(deviations),
        curve=curve.mean(),
        truncated=sum(1 for tokens in cut if tokens) if cut else None,
    )


def estimates(values: Array, seed: int = 0) -> list[Estimate]:
    """Mean and 95 % interval of each row of ``values`` ``[K, N]``, N ≥ 1; the K rows are resampled together.

    Percentile bootstrap (Efron & Tibshirani 1993, §13.3) of 10,000 resamples; above 5,000 values, mean ± 1.96 standard
    errors.
    """
    count = values.shape[1]
    means = values.mean(axis=1)
    if count > BOOTSTRAP_ROWS:
        errors = _NORMAL_975 * values.std(axis=1, ddof=1) / np.sqrt(count)
        low, high = means - errors, means + errors
    else:
        low, high = np.percentile(_resampled_means(values, seed), [2.5, 97.5], axis=1)
    found: list[Estimate] = []
    for triple in zip(means, low, high, strict=True):
        found.append(Estimate(*map(float, triple)))
    return found


def _resampled_means(values: Array, seed: int) -> Array:
    """Means ``[K, RESAMPLES]`` of ``values`` ``[K, N]`` drawn with replacement."""
    rng = np.random.default_rng(seed)
    count = values.shape[1]
    # In chunks, since all resamples of thousands of rows at once would take gigabytes.
    size = max(1, _CHUNK_VALUES // count)
    chunks: list[Array] = []
    for start in range(0, RESAMPLES, size):
        drawn = rng.integers(count, size=(min(size, RESAMPLES - start), count), dtype=np.int32)
        chunks.append(values[:, drawn].mean(axis=2))
    return np.concatenate(chunks, axis=1)


def best_so_far(scores: Sequence[float], steps: Sequence[int]) -> list[float]:
    """A row's best score after each of its images; previews and probes count for nothing, since they are never kept.

    Args:
        steps: sampler steps of each image; the first image has full steps.
    """
    full = steps[0]
    counted = [score if step == full else 0.0 for score, step in zip(scores, steps, strict=True)]
    return list(itertools.accumulate(counted, max))


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
    """The steering score's change, and that of each scorer of a panel and each judge, with the names readers see."""
    labels = [("VQA score", summary.score)]
    labels += [(f"scorer {name}", change) for name, change in summary.members.items()]
    labels += [(f"judge {name}", change) for name, change in summary.judges.items()]
    return labels


def shown(estimate: Estimate, sign: str = "") -> str:
    """``0.523 [0.48, 0.57]``; ``sign="+"`` writes the sign of a positive mean."""
    return f"{estimate.mean:{sign}.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def notes(summary: Summary) -> list[str]:
    """What the table's numbers leave out, one sentence per line."""
    if summary.mean_rounds is None:
        return ["No row finished."]
    reasons = ", ".join(f"{reason} {count}" for reason, count in summary.stop_reasons.items())
    counted = "1 row" if summary.rows == 1 else f"{summary.rows} rows"
    lines = [
        f"{counted}, {summary.mean_rounds:.1f} rounds per row; stopped by: {reasons}.",
        f"Kept noise: norm {summary.noise_norm:.3f}, std {summary.noise_std:.3f} (1 and 1 for fresh noise).",
    ]
    if summary.truncated:
        lines.append(
            f"{summary.truncated} of {summary.rows} prompts are longer than the diffusion model reads, and were "
            "truncated for it (prompt_tokens_cut)."
        )
    for name, change in summary.judges.items():
        if change is None:
            continue
        if change.rows < summary.rows:
            lines.append(f"Judge {name} could read {change.rows} of {summary.rows} rows.")
        if change.agreement is not None:
            first, kept = change.agreement
            lines.append(f"Judge {name} and the VQA score agree on {first:.1%} of first and {kept:.1%} of kept images.")
    return lines


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


class _Pairs:
    """One scorer's scores of (first, kept) images, and where they agree with the steering score."""

    def __init__(self) -> None:
        self._pairs: list[tuple[float, float]] = []
        self._agreed: list[tuple[bool, bool]] = []

    def add(self, pair: tuple[float, float], steering: tuple[float, float] | None = None) -> None:
        """Add a row; ``steering`` are the scores to compare a judge's with."""
        self._pairs.append(pair)
        if steering is not None:
            first = (pair[0] > 0.5) == (steering[0] > 0.5)
            kept = (pair[1] > 0.5) == (steering[1] > 0.5)
            self._agreed.append((first, kept))

    def change(self) -> Change | None:
        if not self._pairs:
            return None
        scores = np.array(self._pairs, dtype=np.float64)
        initial, final = scores[:, 0], scores[:, 1]
        first, kept, gain = estimates(np.stack([initial, final, final - initial]))
        agreement = None
        if self._agreed:
            shares = np.mean(self._agreed, axis=0)
            agreement = (float(shares[0]), float(shares[1]))
        return Change(len(self._pairs), first, kept, gain, agreement)


class _Curve:
    """Mean best score so far, by image, over rows of different lengths, without keeping the rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._live: list[float] = []  # by image: sum of the best scores so far of the rows that have this image
        self._ended: list[float] = []  # by image: sum of the final best scores of the rows that end with this image

    def add(self, scores: Sequence[float], steps: Sequence[int]) -> None:
        """Add a row by the scores and sampler steps of its images."""
        bests = best_so_far(scores, steps)
        missing = len(bests) - len(self._live)
        if missing > 0:
            self._live.extend([0.0] * missing)
            self._ended.extend([0.0] * missing)
        for image, best in enumerate(bests):
            self._live[image] += best
        self._ended[len(bests) - 1] += bests[-1]
        self._rows += 1

    def mean(self) -> tuple[float, ...]:
        if not self._rows:
            return ()
        # A row that has ended counts with its final best score at every later image.
        carried = itertools.accumulate([0.0, *self._ended[:-1]])
        return tuple((live + ended) / self._rows for live, ended in zip(self._live, carried, strict=True))
