"""The figures of a run against closed forms, SciPy's bootstrap, and their own promise of coverage."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from noisesmith.pipeline.report.summary import BOOTSTRAP_ROWS, Summary, columns, estimates, summarise, summary_table

unit = st.floats(0, 1)


def row(scores: list[float], **changes: Any) -> dict[str, Any]:
    noise = {"mean": 0.0, "std": 1.0, "norm": 1.0, "ks": 0.01}
    base = {"scores": scores, "score_initial": scores[0], "score": max(scores), "rounds": len(scores) - 1}
    base["steps"] = [20] * len(scores)
    return base | {"stop_reason": "rounds", "noise": noise} | changes


def rendered(summary: Summary) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(summary))
    return console.export_text()


def test_means_and_counts_are_those_of_the_rows() -> None:
    rows = [
        row([0.2, 0.6], stop_reason="target", noise={"norm": 1.1, "std": 0.9}),
        row([0.4, 0.3, 0.8], noise={"norm": 0.9, "std": 1.1}),
        row([0.6], noise={"norm": 1.3, "std": 1.0}),
    ]
    summary = summarise(rows, [])
    assert summary.rows == 3
    assert summary.score is not None
    assert summary.score.first.mean == pytest.approx(0.4)
    assert summary.score.kept.mean == pytest.approx(2 / 3)
    assert summary.score.gain.mean == pytest.approx(2 / 3 - 0.4)
    assert summary.mean_rounds == pytest.approx(1.0)
    assert summary.stop_reasons == {"rounds": 2, "target": 1}
    assert summary.noise_norm == pytest.approx(1.1)
    assert summary.noise_std == pytest.approx(1.0)


def test_a_row_that_stopped_early_counts_with_its_best_in_later_rounds() -> None:
    curve = summarise([row([0.2, 0.6]), row([0.4, 0.3, 0.8]), row([0.6])], []).curve
    assert curve == pytest.approx((1.2 / 3, 1.6 / 3, 2.0 / 3))


@settings(max_examples=25)
@given(st.lists(st.lists(unit, min_size=1, max_size=6), min_size=1, max_size=8))
def test_the_curve_equals_a_padded_running_maximum(scores: list[list[float]]) -> None:
    longest = max(map(len, scores))
    padded = np.array([one + [max(one)] * (longest - len(one)) for one in scores])
    expected = np.maximum.accumulate(padded, axis=1).mean(axis=0)
    assert summarise([row(one) for one in scores], []).curve == pytest.approx(expected)


def test_a_judge_counts_only_rows_it_could_read_twice() -> None:
    rows = [
        row([0.1, 0.9], judge_eye=1.0, judge_eye_initial=0.0),
        row([0.1, 0.9], judge_eye=1.0, judge_eye_initial=None),
        row([0.1, 0.9], judge_eye=None, judge_eye_initial=1.0),
        row([0.1, 0.9], judge_eye=0.5, judge_eye_initial=1.0),
    ]
    change = summarise(rows, ["eye"]).judges["eye"]
    assert change is not None
    assert (change.rows, change.first.mean, change.kept.mean, change.gain.mean) == (2, 0.5, 0.75, 0.25)


def test_the_columns_asked_for_are_all_that_is_read() -> None:
    full = row([0.1, 0.9], judge_eye=1.0, judge_eye_initial=0.0)
    assert summarise([{name: full[name] for name in columns(["eye"])}], ["eye"]).rows == 1


def test_intervals_agree_with_scipy() -> None:
    values = np.random.default_rng(3).beta(0.6, 1.4, size=(1, 80))
    (ours,) = estimates(values)
    theirs = stats.bootstrap(values, np.mean, n_resamples=10_000, method="percentile", rng=5).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_intervals_of_many_rows_agree_with_the_t_interval() -> None:
    values = np.random.default_rng(4).beta(0.6, 1.4, size=(1, BOOTSTRAP_ROWS + 1))
    (ours,) = estimates(values)
    expected = stats.t.interval(0.95, values.size - 1, values.mean(), stats.sem(values[0]))
    assert (ours.low, ours.high) == pytest.approx(expected, abs=1e-5)


def test_the_interval_of_a_gain_is_paired() -> None:
    """Rows differ much and all gain the same: the gain is certain although both means are not."""
    firsts = np.random.default_rng(5).uniform(0, 0.5, 50).tolist()
    change = summarise([row([first, first + 0.25]) for first in firsts], []).score
    assert change is not None
    assert change.gain.high - change.gain.low < 1e-12
    assert change.first.high - change.first.low > 0.05


def test_nominal_95_percent_intervals_cover_the_truth_about_95_percent_of_the_time() -> None:
    """The percentile bootstrap undercovers by about 1/N; 200 trials of N = 40 vary by ±3 %."""
    truth = 0.6 / (0.6 + 1.4)
    trials = np.random.default_rng(6).beta(0.6, 1.4, size=(200, 40))
    covered = sum(one.low <= truth <= one.high for (one,) in (estimates(trial[None]) for trial in trials))
    assert 0.89 <= covered / 200 <= 0.985


def test_a_preview_counts_in_the_curve_only_once_it_is_rendered_again() -> None:
    previewed = row([0.2, 0.9, 0.7, 0.6], steps=[20, 5, 5, 20], score=0.6)
    assert summarise([previewed], []).curve == (0.2, 0.2, 0.2, 0.6)


def test_agreement_counts_the_images_that_scorer_and_judge_see_alike() -> None:
    rows = [
        row([0.1, 0.9], judge_eye_initial=0.0, judge_eye=1.0),
        row([0.1, 0.9], judge_eye_initial=0.0, judge_eye=0.0),
        row([0.2, 0.4], judge_eye_initial=1.0, judge_eye=0.0),
        row([0.7, 0.8], judge_eye_initial=None, judge_eye=0.0),
    ]
    summary = summarise(rows, ["eye"])
    change = summary.judges["eye"]
    assert change is not None
    assert change.agreement == (2 / 3, 2 / 3)
    assert "agree on 66.7% of first and 66.7% of kept images" in " ".join(rendered(summary).split())


def test_the_same_rows_give_the_same_summary() -> None:
    rows = [row([score, 1.0]) for score in (0.1, 0.5, 0.7)]
    assert summarise(rows, []) == summarise(rows, [])


def test_a_summary_survives_json() -> None:
    plain = summarise([row([0.1, 0.9], judge_eye=1.0, judge_eye_initial=0.0)], ["eye"]).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_an_empty_run_has_a_summary_too() -> None:
    summary = summarise([], ["eye"])
    assert (summary.rows, summary.score, summary.judges, summary.curve) == (0, None, {"eye": None}, ())
    json.dumps(summary.to_dict(), allow_nan=False)
    assert "No row finished" in rendered(summary)


def test_the_table_fits_80_columns_with_every_figure_whole() -> None:
    rows = [row([0.1, 0.9], judge_detector=0.25, judge_detector_initial=1.0)] * 3
    text = rendered(summarise([*rows, row([0.5], judge_detector=None, judge_detector_initial=None)], ["detector"]))
    assert max(map(len, text.splitlines())) <= 80
    for figure in ("VQA score", "judge detector", "+0.600", "-0.750", "[-0.75, -0.75]", "3 of 4 rows"):
        assert figure in text
