"""The figures of made-up searches against what can be computed by hand, with T = 4."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from noisesmith.pipeline.bench.compare import Comparison, Rows, compare
from noisesmith.pipeline.bench.variants import DEFAULTS
from noisesmith.pipeline.errors import UserError
from tests.bench.conftest import T, row, rows_of

VARIANTS = {variant.label: variant for variant in DEFAULTS}
PREVIEWED = [T, 1, 1, T]


def figures(rounds: int = 2, judges: list[str] | None = None, **rows: Rows) -> Comparison:
    variants = [VARIANTS[label] for label in rows]
    seconds = dict.fromkeys(rows, 1.5)
    parts = [("plain", 2), ("hard", 99)]
    return compare(variants, rows, seconds, judges or [], parts, asked=3, rounds=rounds, steps=T)


def means(curve: Any) -> list[float]:
    return [point.mean for point in curve.score]


def test_curves_are_means_of_the_best_so_far() -> None:
    found = figures(noise_diffusion=rows_of(row([0.2, 0.6, 0.4]), row([0.4, 0.2, 1.0]))).variants["noise_diffusion"]
    assert found.by_round.at == (0, 1, 2)
    assert means(found.by_round) == pytest.approx([0.3, 0.5, 0.8])
    assert found.by_evaluations.at == (4, 8, 12)
    assert means(found.by_evaluations) == pytest.approx([0.3, 0.5, 0.8])
    assert (found.unet_evaluations, found.vlm_evaluations, found.seconds) == (12, 3, 1.5)
    assert (found.score.first.mean, found.score.kept.mean) == pytest.approx((0.3, 0.8))
    assert found.difference is None


def test_a_row_that_was_perfect_early_counts_with_its_best_for_the_rest() -> None:
    perfect = row([0.2, 1.0], stop_reason="perfect")
    found = figures(noise_diffusion=rows_of(perfect, row([0.2, 0.2, 0.6]))).variants["noise_diffusion"]
    assert means(found.by_round) == pytest.approx([0.2, 0.6, 0.8])
    assert means(found.by_evaluations) == pytest.approx([0.2, 0.6, 0.8])
    assert found.unet_evaluations == 10


def test_a_preview_counts_once_rendered_again_and_its_budget_is_the_shared_one() -> None:
    """A preview's last image may be ready before the budget is spent; nothing more fits in what is left of it."""
    reference = rows_of(row([0.2, 0.4, 0.5]), row([0.2, 0.2, 0.3]))
    previews = rows_of(
        row([0.2, 0.9, 0.1, 0.8], PREVIEWED, stop_reason="budget"),
        row([0.2, 0.3, 0.6, 0.5, 0.4, 0.6], [T, 1, 1, 1, 1, T], stop_reason="budget"),
    )
    found = figures(noise_diffusion=reference, preview_4=previews).variants["preview_4"]
    assert means(found.by_round)[:3] == pytest.approx([0.2, 0.2, 0.2])
    assert found.by_evaluations.at == (4, 8, 12)
    assert means(found.by_evaluations) == pytest.approx([0.2, 0.2, 0.7])
    assert found.rounds_to_95 is None
    assert found.evaluations_to_95 == 12
    assert found.unet_evaluations == 11
    assert found.difference is not None
    assert found.difference.budget == 12
    assert found.difference.score_at_budget.mean == pytest.approx(0.3)


def test_equal_evaluations_cut_both_curves_at_the_smaller_budget() -> None:
    """A method whose images cost twice as much has made one search image where the reference has made three."""
    reference = rows_of(row([0.2, 0.3, 0.4, 0.6]), row([0.2, 0.4, 0.4, 0.8]))
    costly = [row([0.2, 0.5, 0.9, 1.0], evaluations=[8.0] * 4), row([0.2, 0.9, 0.9, 0.9], evaluations=[8.0] * 4)]
    difference = figures(3, noise_diffusion=reference, initno=rows_of(*costly)).variants["initno"].difference
    assert difference is not None
    assert difference.score.mean == pytest.approx((0.4 + 0.1) / 2)
    assert difference.budget == 16
    assert difference.score_at_budget.mean == pytest.approx((-0.1 + 0.1) / 2)


def test_a_row_without_an_image_within_the_budget_counts_0() -> None:
    costly = rows_of(row([0.9], evaluations=[9.0]))
    difference = figures(1, noise_diffusion=rows_of(row([0.2, 0.4])), initno=costly).variants["initno"].difference
    assert difference is not None
    assert difference.score.mean == pytest.approx(0.5)
    assert difference.score_at_budget.mean == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("scores", "rounds", "evaluations"),
    [([0.0, 0.94, 0.95, 1.0], 2, 12), ([0.5, 0.5, 0.5], None, None), ([0.1, 0.9, 0.2], 1, 8)],
)
def test_rounds_to_95_percent_of_the_final_gain(scores: list[float], rounds: int, evaluations: float) -> None:
    found = figures(noise_diffusion=rows_of(row(scores))).variants["noise_diffusion"]
    assert (found.rounds_to_95, found.evaluations_to_95) == (rounds, evaluations)


def test_differences_are_paired_by_prompt() -> None:
    """Prompts differ much and all gain the same over the reference: the difference is certain, the means are not."""
    levels = np.random.default_rng(0).uniform(0, 0.5, 30)
    reference = rows_of(*(row([0.0, level]) for level in levels))
    better = rows_of(*(row([0.0, level + 0.25]) for level in levels))
    found = figures(noise_diffusion=reference, pgd=better).variants["pgd"]
    assert found.difference is not None
    interval = found.difference.score
    assert (interval.low, interval.mean, interval.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.score.kept.high - found.score.kept.low > 0.05


def test_intervals_are_over_prompts_after_the_mean_over_seeds() -> None:
    """The same as SciPy's bootstrap of each prompt's mean; two seeds of a prompt do not count as two prompts."""
    rng = np.random.default_rng(1)
    ours, theirs = rng.uniform(0.1, 0.9, (2, 2, 40))

    def seeds(scores: NDArray[np.float64]) -> Rows:
        first, second = (rows_of(*(row([0.0, float(score)]) for score in scores[seed]), seed=seed) for seed in (0, 1))
        return first | second

    comparison = figures(noise_diffusion=seeds(theirs), pgd=seeds(ours))
    difference = comparison.variants["pgd"].difference
    expected = (ours - theirs).mean(axis=0)
    scipys = stats.bootstrap(expected[None], np.mean, method="percentile", rng=5).confidence_interval
    assert (comparison.prompts, comparison.rows) == (40, 80)
    assert difference is not None
    assert difference.score.mean == pytest.approx(expected.mean())
    assert (difference.score.low, difference.score.high) == pytest.approx((scipys.low, scipys.high), abs=0.01)


def test_judges_compare_only_what_both_could_read() -> None:
    reference = rows_of(
        row([0.1, 0.5], judge_eye_initial=0.0, judge_eye=0.0),
        row([0.1, 0.5], judge_eye_initial=0.0, judge_eye=None),
        row([0.1, 0.5], judge_eye_initial=0.0, judge_eye=1.0),
    )
    ours = rows_of(
        row([0.1, 0.5], judge_eye_initial=0.0, judge_eye=1.0),
        row([0.1, 0.5], judge_eye_initial=0.0, judge_eye=1.0),
        row([0.1, 0.5], judge_eye_initial=None, judge_eye=0.5),
    )
    found = figures(judges=["eye"], noise_diffusion=reference, pgd=ours).variants["pgd"]
    assert found.judges["eye"] is not None
    assert (found.judges["eye"].rows, found.judges["eye"].kept.mean) == (2, 1.0)
    assert found.difference is not None
    assert found.difference.judges["eye"] is not None
    assert found.difference.judges["eye"].mean == pytest.approx((1.0 - 0.5) / 2)


def test_a_judge_that_could_read_nothing_has_no_figures() -> None:
    blind = rows_of(row([0.1, 0.5], judge_eye_initial=None, judge_eye=None))
    found = figures(judges=["eye"], noise_diffusion=blind, pgd=blind).variants["pgd"]
    assert found.judges == {"eye": None}
    assert found.difference is not None
    assert found.difference.judges == {"eye": None}


def test_only_rows_that_every_variant_finished_count() -> None:
    reference = rows_of(row([0.2, 0.4]), row([0.2, 0.8]))
    ours = dict(list(rows_of(row([0.2, 0.5]), row([0.2, 0.5])).items())[:1])
    comparison = figures(noise_diffusion=reference, pgd=ours)
    assert (comparison.rows, comparison.rows_asked) == (1, 3), "one row was finished by none"
    assert comparison.variants["noise_diffusion"].score.kept.mean == pytest.approx(0.4)
    with pytest.raises(UserError, match="no row was finished by every variant"):
        figures(noise_diffusion=reference, pgd=rows_of(row([0.1]), seed=7))


def test_sources_of_the_corpus_have_their_own_means() -> None:
    """The first two rows are of the source `plain`, the others of `hard`."""
    searches = [row([0.1, kept]) for kept in (0.2, 0.4, 0.6, 0.8)]
    parts = figures(noise_diffusion=rows_of(*searches)).variants["noise_diffusion"].parts
    assert list(parts) == ["plain", "hard"]
    for name, kept in (("plain", 0.3), ("hard", 0.7)):
        change = parts[name]["score"]
        assert change is not None
        assert change.rows == 2
        assert change.kept.mean == pytest.approx(kept)


def test_drift_is_the_mean_over_the_kept_noises() -> None:
    drifted = [row([0.1], noise={"norm": norm, "ks": ks}) for norm, ks in ((1.0, 0.01), (1.2, 0.05))]
    found = figures(noise_diffusion=rows_of(*drifted)).variants["noise_diffusion"]
    assert (found.noise_norm, found.noise_ks) == pytest.approx((1.1, 0.03))
