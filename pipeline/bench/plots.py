"""The two plots of a comparison: mean score by round, and by U-Net evaluations.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; every line is named at its end.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from noisesmith.pipeline.bench.compare import Comparison, Curve, Figures
from noisesmith.pipeline.bench.variants import REFERENCE, Variant
from noisesmith.pipeline.report.summary import Estimate

SIZE, DPI = (9.0, 5.4), 150
INK, FAINT = "#23262b", "#6d727a"
REFERENCE_COLOUR = "#D55E00"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
DASHES = ("-", "--", ":")
MARKERS = "DosvP^X<*>"
BANDED = 3  # variants whose interval is drawn: the reference, the plain lower bar, the best line
LABEL_GAP = 0.045  # of the axis' height


@dataclass(frozen=True)
class _Mark:
    """Where a variant's name points to."""

    label: str
    x: float
    score: Estimate
    colour: str
    dashes: str = "-"


def score_by_round(comparison: Comparison, variants: tuple[Variant, ...], rounds: int, steps: int) -> bytes:
    """PNG: mean best score after each search round; previews at M, since they spend as much as M full rounds."""
    curves = {label: figures.by_round for label, figures in comparison.variants.items()}
    return _plot(comparison, variants, curves, (0.0, float(rounds)), "search rounds")


def score_by_evaluations(comparison: Comparison, variants: tuple[Variant, ...], rounds: int, steps: int) -> bytes:
    """PNG: mean best score by what was spent on it, up to the (M + 1)·T of M rounds at T sampler steps."""
    curves = {label: figures.by_evaluations for label, figures in comparison.variants.items()}
    limits = (float(steps), float((rounds + 1) * steps))
    return _plot(comparison, variants, curves, limits, "U-Net evaluations a prompt (denoising steps)")


def _plot(
    comparison: Comparison, variants: tuple[Variant, ...], curves: dict[str, Curve], limits: tuple[float, float],
    unit: str,
) -> bytes:  # fmt: skip
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = {v.label: _cut(curves[v.label], limits[1]) for v in variants if not v.previews}
    banded = _banded(lines, comparison.variants)
    marks = [
        _draw_line(axes, label, curve, style, limits, band=label in banded)
        for (label, curve), style in zip(lines.items(), _styles(list(lines)), strict=True)
    ]
    previews = [variant.label for variant in variants if variant.previews]
    for place, label in enumerate(previews):
        marks.append(_draw_point(axes, label, comparison.variants[label], place, limits))
    note = f"Shaded: 95 % intervals of {', '.join(banded)}."
    note += "\nMarkers: searches by previews, for as many U-Net evaluations." if previews else ""
    axes.set_title(note, loc="left", fontsize=8.5, color=FAINT)
    _dress(axes, limits, unit, len(previews))
    _name(axes, marks, limits, len(previews))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "noisesmith"})
    return buffer.getvalue()


def _cut(curve: Curve, limit: float) -> Curve:
    inside = [place for place, at in enumerate(curve.at) if at <= limit] or [0]
    return Curve(tuple(curve.at[place] for place in inside), tuple(curve.score[place] for place in inside))


def _banded(lines: dict[str, Curve], figures: dict[str, Figures]) -> list[str]:
    searches = [label for label, curve in lines.items() if len(curve.at) > 1]
    best = sorted(searches, key=lambda label: -figures[label].score.kept.mean)
    wanted = [label for label in (REFERENCE, "random_sampling", *best) if label in searches]
    return list(dict.fromkeys(wanted))[:BANDED]


def _styles(labels: list[str]) -> list[tuple[str, str, float]]:
    """(colour, dashes, width) of each line."""
    others = [label for label in labels if label not in (REFERENCE, "none")]
    styles = {
        label: (COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)], 1.7)
        for place, label in enumerate(others)
    }
    styles |= {REFERENCE: (REFERENCE_COLOUR, "-", 3.0), "none": (FAINT, ":", 1.7)}
    return [styles[label] for label in labels]


def _draw_line(
    axes: Any, label: str, curve: Curve, style: tuple[str, str, float], limits: tuple[float, float], *, band: bool
) -> _Mark:
    colour, dashes, width = style
    at, means = list(curve.at), [point.mean for point in curve.score]
    if len(at) == 1:  # a first image alone: drawn on as the level the others start from
        at, means = [at[0], limits[1]], means * 2
    elif band:
        low, high = [point.low for point in curve.score], [point.high for point in curve.score]
        axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(at, means, color=colour, linestyle=dashes, linewidth=width, solid_capstyle="round")
    return _Mark(label, at[-1], curve.score[-1], colour, dashes)


def _draw_point(axes: Any, label: str, figures: Figures, place: int, limits: tuple[float, float]) -> _Mark:
    x, score = limits[1] + (place + 1) * _pitch(limits), figures.score.kept
    error = [[score.mean - score.low], [score.high - score.mean]]
    axes.errorbar(x, score.mean, error, color=INK, marker=MARKERS[place % len(MARKERS)], markersize=6, elinewidth=0.8)
    return _Mark(label, x, score, INK)


def _pitch(limits: tuple[float, float]) -> float:
    return 0.025 * (limits[1] - limits[0])


def _dress(axes: Any, limits: tuple[float, float], unit: str, previews: int) -> None:
    axes.set_xlim(limits[0], limits[1] + (previews + 0.5) * _pitch(limits))
    axes.set_xlabel(unit, color=INK)
    axes.set_ylabel("mean VQA score of the best image so far", color=INK)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#e6e4de", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)


def _name(axes: Any, marks: list[_Mark], limits: tuple[float, float], previews: int) -> None:
    """Names right of the axis in the order of the scores, moved apart, each with a thin line to its mark."""
    bottom, top = axes.get_ylim()
    gap = LABEL_GAP * (top - bottom)
    marks = sorted(marks, key=lambda mark: mark.score.mean)
    places = _apart([mark.score.mean for mark in marks], gap, bottom, top)
    axes.set_ylim(bottom, top)
    edge = limits[1] + (previews + 1.5) * _pitch(limits)
    for mark, y in zip(marks, places, strict=True):
        axes.annotate(
            mark.label, (mark.x, mark.score.mean), (edge + _pitch(limits), y),
            color=mark.colour, fontsize=9.5, va="center", annotation_clip=False,
            fontweight="bold" if mark.label == REFERENCE else "normal",
            arrowprops={
                "arrowstyle": "-", "color": mark.colour, "linestyle": mark.dashes, "linewidth": 0.7, "alpha": 0.7,
                "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 2,
            },
        )  # fmt: skip


def _apart(wanted: list[float], gap: float, bottom: float, top: float) -> list[float]:
    """Heights in the order of ``wanted`` (ascending), as near to it as can be with ``gap`` between them.

    Least squares under that constraint, by pooling adjacent violators; in [bottom, top] where they fit.
    """
    pools: list[tuple[float, int]] = []  # (height less the gaps below it, names that share it)
    for place, height in enumerate(wanted):
        pools.append((height - place * gap, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (upper, n), (lower, m) = pools.pop(), pools.pop()
            pools.append(((upper * n + lower * m) / (n + m), n + m))
    ceiling = top - gap * (len(wanted) - 1)
    heights = [max(min(height, ceiling), bottom) for height, count in pools for _ in range(count)]
    return [height + place * gap for place, height in enumerate(heights)]
