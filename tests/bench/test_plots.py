"""The plots: every variant drawn and named, apart and inside, whatever the scores."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from noisesmith.pipeline.bench.compare import Comparison, compare
from noisesmith.pipeline.bench.plots import _apart, score_by_evaluations, score_by_round
from noisesmith.pipeline.bench.variants import DEFAULTS
from tests.bench.conftest import T, row, rows_of

ROUNDS, PROMPTS = 12, 30


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """All built-in variants, each on 30 prompts, some better than others."""
    rng = np.random.default_rng(0)
    firsts = rng.beta(0.4, 1.0, PROMPTS)
    rows = {}
    for place, variant in enumerate(DEFAULTS):
        searches = []
        for first in firsts:
            count = 1 if variant.label == "none" else ROUNDS + 1
            later = rng.beta(0.3 + 0.05 * place, 2.0, count - 1)
            steps = [T] * count
            if variant.previews:
                later, steps = np.append(np.repeat(later, 2), later.max()), [T, *[1] * (2 * count - 2), T]
            stop = "budget" if variant.previews else "rounds"
            searches.append(row([first, *later.tolist()], steps, stop_reason=stop))
        rows[variant.label] = rows_of(*searches)
    seconds = dict.fromkeys(rows, 1.0)
    return compare(DEFAULTS, rows, seconds, [], [("all", PROMPTS)], rounds=ROUNDS, steps=T)


@pytest.mark.parametrize("plot", [score_by_round, score_by_evaluations])
def test_all_variants_fit_one_plot(comparison: Comparison, plot, tmp_path: Path) -> None:
    image = Image.open(io.BytesIO(plot(comparison, DEFAULTS, ROUNDS, T))).convert("RGB")
    image.save(tmp_path / "plot.png")
    assert image.width >= 1200
    border = np.concatenate([np.asarray(image)[:, -2:].reshape(-1, 3), np.asarray(image)[:2].reshape(-1, 3)])
    assert (border == 255).all(), "something is cut at the edge"


@given(st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=15))
def test_names_are_kept_apart_in_order_and_inside(heights: list[float]) -> None:
    places = _apart(sorted(heights), 0.05, 0.0, 1.0)
    assert all(high - low >= 0.05 - 1e-9 for low, high in pairwise(places))
    assert places[0] >= -1e-9
    assert places[-1] <= 1 + 1e-9
