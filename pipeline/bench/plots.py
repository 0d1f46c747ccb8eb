"""The two plots of a comparison: mean score by round, and by U-Net evaluations.

Colours are those of Okabe and Ito (2008), which all kinds of colour vision can tell apart.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from noisesmith.pipeline.bench.compare import Comparison, Curve, Figures
from noisesmith.pipeline.bench.kinds import METHODS, Variant

REFERENCE = METHODS.reference
SIZE = (9.0, 5.4)  # inches
DPI = 150
INK = "#23262b"
FAINT = "#6d727a"
REFERENCE_COLOUR = "#D55E00"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
DASHES = ("-", "--", ":")
MARKERS = "DosvP^X<*>"
BANDED = 3  # variants whose interval is drawn: the reference, random sampling, the best of the others


@dataclass(frozen=True)
class _Style:
    colour: str
    dashes: str
    width: float = 1.7


@dataclass(frozen=True)
class _Axis:
    """What a plot has on its horizontal axis; previews and probes are drawn right of ``high``."""

    low: float
    high: float
    unit: str

    @property
    def pitch(self) -> float:
        """Distance between the marks of two of them."""
        return 0.025 * (self.high - self.low)


def score_by_round(comparison: Comparison, variants: tuple[Variant, ...], rounds: int, _steps: int) -> bytes:
    """PNG: mean best score after each search round; previews and probes at M, since they spend as much as M rounds."""
    curves = {label: figures.by_round for label, figures in comparison.variants.items()}
    return _plot(comparison, variants, curves, _Axis(0.0, float(rounds), "search rounds"))


def score_by_evaluations(comparison: Comparison, variants: tuple[Variant, ...], rounds: int, steps: int) -> bytes:
    """PNG: mean best score by U-Net evaluations, up to the (M + 1)·T of M rounds at T sampler steps."""
    curves = {label: figures.by_evaluations for label, figures in comparison.variants.items()}
    unit = "U-Net evaluations per prompt (denoising steps)"
    return _plot(comparison, variants, curves, _Axis(float(steps), float((rounds + 1) * steps), unit))


def _plot(comparison: Comparison, variants: tuple[Variant, ...], curves: dict[str, Curve], axis: _Axis) -> bytes:
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = {variant.label: _cut(curves[variant.label], axis.high) for variant in variants if not variant.short_rounds}
    short = [variant.label for variant in variants if variant.short_rounds]
    banded = _banded(lines, comparison.variants)
    styles = _styles(list(lines))
    drawn: dict[str, Artist] = {}
    for label, curve in lines.items():
        drawn[label] = _draw_line(axes, curve, styles[label], axis)
        if label in banded:
            _draw_band(axes, curve, styles[label])
    for number, label in enumerate(short):
        drawn[label] = _draw_point(axes, comparison.variants[label], number, axis)
    note = f"Shaded: 95 % intervals of {', '.join(banded)}."
    if short:
        note += "\nMarkers: searches by previews or probes, for as many U-Net evaluations."
    axes.set_title(note, loc="left", fontsize=8.5, color=FAINT)
    _dress(axes, axis, len(short))
    _legend(figure, drawn, comparison)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "noisesmith"})
    return buffer.getvalue()


def _cut(curve: Curve, limit: float) -> Curve:
    """The curve up to ``limit``; its first point where all of it lies beyond."""
    count = max(1, sum(at <= limit for at in curve.at))
    return Curve(curve.at[:count], curve.score[:count])


def _banded(lines: dict[str, Curve], figures: dict[str, Figures]) -> list[str]:
    searches = [label for label, curve in lines.items() if len(curve.at) > 1]
    best_first = sorted(searches, key=lambda label: -figures[label].score.kept.mean)
    wanted = [label for label in (REFERENCE, "random_sampling", *best_first) if label in searches]
    return list(dict.fromkeys(wanted))[:BANDED]


def _styles(labels: list[str]) -> dict[str, _Style]:
    styles = {REFERENCE: _Style(REFERENCE_COLOUR, "-", 3.0), "none": _Style(FAINT, ":")}
    others = [label for label in labels if label not in styles]
    for number, label in enumerate(others):
        dashes = DASHES[number // len(COLOURS) % len(DASHES)]
        styles[label] = _Style(COLOURS[number % len(COLOURS)], dashes)
    return styles


def _draw_line(axes: Axes, curve: Curve, style: _Style, axis: _Axis) -> Artist:
    at = list(curve.at)
    means = [point.mean for point in curve.score]
    if len(at) == 1:  # a first image alone is the level that the others start from: drawn over the whole width
        at = [at[0], axis.high]
        means = [means[0], means[0]]
    (line,) = axes.plot(
        at, means, color=style.colour, linestyle=style.dashes, linewidth=style.width, solid_capstyle="round"
    )
    return line


def _draw_band(axes: Axes, curve: Curve, style: _Style) -> None:
    low = [point.low for point in curve.score]
    high = [point.high for point in curve.score]
    axes.fill_between(curve.at, low, high, color=style.colour, alpha=0.13, linewidth=0)


def _draw_point(axes: Axes, figures: Figures, number: int, axis: _Axis) -> Artist:
    """A variant of previews or probes: its kept score with its interval, right of the lines."""
    score = figures.score.kept
    x = axis.high + (number + 1) * axis.pitch
    error = [[score.mean - score.low], [score.high - score.mean]]
    marker = MARKERS[number % len(MARKERS)]
    bar = axes.errorbar(x, score.mean, error, color=INK, marker=marker, markersize=6, elinewidth=0.8, linestyle="none")
    point: Artist = bar.lines[0]
    return point


def _dress(axes: Axes, axis: _Axis, marks: int) -> None:
    axes.set_xlim(axis.low, axis.high + (marks + 0.5) * axis.pitch)
    axes.set_xlabel(axis.unit, color=INK)
    axes.set_ylabel("mean VQA score of the best image so far", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e6e4de", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)


def _legend(figure: Figure, drawn: dict[str, Artist], comparison: Comparison) -> None:
    """Names right of the axes, the best score first."""
    labels = sorted(drawn, key=lambda label: -comparison.variants[label].score.kept.mean)
    handles = [drawn[label] for label in labels]
    legend = figure.legend(handles, labels, loc="outside right upper", frameon=False, labelcolor=INK, fontsize=9.5)
    for text in legend.get_texts():
        if text.get_text() == REFERENCE:
            text.set_fontweight("bold")
