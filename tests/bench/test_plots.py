"""The plots: every variant is drawn and named, and nothing is cut at the edge."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from noisesmith.pipeline.bench.compare import Comparison, compare
from noisesmith.pipeline.bench.kinds import Variant
from noisesmith.pipeline.bench.plots import score_by_evaluations, score_by_round
from noisesmith.pipeline.bench.variants import DEFAULTS
from tests.bench.conftest import T, row, rows_of

Plot = Callable[[Comparison, tuple[Variant, ...], int, int], bytes]
ROUNDS, PROMPTS = 12, 30


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """All built-in variants, each on 30 prompts, some better than others."""
    rng = np.random.default_rng(0)
    firsts = rng.beta(0.4, 1.0, PROMPTS)
    rows = {}
    for number, variant in enumerate(DEFAULTS):
        searches = []
        for first in firsts:
            count = 1 if variant.label == "none" else ROUNDS + 1
            later = rng.beta(0.3 + 0.05 * number, 2.0, count - 1)
            steps = [T] * count
            if variant.short_rounds:
                later, steps = np.append(np.repeat(later, 2), later.max()), [T, *[1] * (2 * count - 2), T]
            stop = "budget" if variant.short_rounds else "rounds"
            searches.append(row([first, *later.tolist()], steps, stop_reason=stop))
        rows[variant.label] = rows_of(*searches)
    seconds = dict.fromkeys(rows, 1.0)
    return compare(DEFAULTS, rows, seconds, [], [("all", PROMPTS)], asked=PROMPTS, rounds=ROUNDS, steps=T)


@pytest.mark.parametrize("plot", [score_by_round, score_by_evaluations])
def test_all_variants_fit_one_plot(comparison: Comparison, plot: Plot, tmp_path: Path) -> None:
    image = Image.open(io.BytesIO(plot(comparison, DEFAULTS, ROUNDS, T))).convert("RGB")
    image.save(tmp_path / "plot.png")
    assert image.width >= 1200
    border = np.concatenate([np.asarray(image)[:, -2:].reshape(-1, 3), np.asarray(image)[:2].reshape(-1, 3)])
    assert (border == 255).all(), "something is cut at the edge"


@pytest.mark.parametrize("plot", [score_by_round, score_by_evaluations])
def test_every_variant_is_named_once_in_the_order_of_the_scores_and_inside(
    comparison: Comparison, plot: Plot, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    plot(comparison, DEFAULTS, ROUNDS, T)
    (figure,) = figures
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert sorted(names) == sorted(variant.label for variant in DEFAULTS)
    scores = [comparison.variants[name].score.kept.mean for name in names]
    assert scores == sorted(scores, reverse=True)
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes)), "names overlap"
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
