"""The reliability diagram of a run: how often images of a score are right, for the scores and the judges."""

from __future__ import annotations

import io
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from noisesmith.pipeline.acceptance.calibrate import ScoreFigures

COLUMNS = 3  # of panels
SIDE = 3.4  # inches of a panel
DPI = 120
INK = "#23262b"
FAINT = "#6d727a"
COLOUR = "#0072B2"


def reliability_diagram(scores: Mapping[str, ScoreFigures]) -> bytes:
    """PNG with one panel per score: the share labelled 1 with its 95 % interval, over the mean score of each tenth."""
    columns = min(COLUMNS, len(scores))
    lines = -(-len(scores) // columns)
    figure = Figure(figsize=(columns * SIDE + 0.4, lines * SIDE + 0.4), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, figures) in enumerate(scores.items(), 1):
        _panel(figure.add_subplot(lines, columns, place), name, figures)
    figure.supxlabel("score", color=INK, fontsize=10)
    figure.supylabel("share that shows its prompt, by eye", color=INK, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "noisesmith"})
    return buffer.getvalue()


def _panel(axes: Axes, name: str, figures: ScoreFigures) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    for one in figures.bins:
        axes.plot([one.score, one.score], [one.right.low, one.right.high], color=COLOUR, linewidth=1.2)
        axes.annotate(
            str(one.right.count), (one.score, one.right.high), (0, 3), textcoords="offset points",
            ha="center", fontsize=7, color=FAINT,
        )  # fmt: skip
    means = [one.score for one in figures.bins]
    shares = [one.right.hits / one.right.count for one in figures.bins]
    axes.plot(means, shares, color=COLOUR, marker="o", markersize=5, linewidth=1.4)
    axes.set_title(f"{name} ({figures.images} images)", fontsize=9, color=INK)
    axes.set_xlim(-0.05, 1.05)
    axes.set_ylim(-0.05, 1.12)
    axes.tick_params(labelsize=8, colors=FAINT)
