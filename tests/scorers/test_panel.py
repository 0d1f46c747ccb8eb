"""A panel's scores and gradients against the closed form of its members', on tiny models of two true families."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from noisesmith.pipeline.config import CalibrationConfig, RunConfig
from noisesmith.pipeline.generators import Decoder
from noisesmith.pipeline.scorers import Group, Member
from noisesmith.pipeline.scorers.calibration import calibrate
from noisesmith.pipeline.scorers.clip_flant5 import ClipFlanT5
from noisesmith.pipeline.scorers.llava import Llava
from noisesmith.pipeline.search.combine import Combination, Opinion
from noisesmith.pipeline.search.score import score, score_latents
from noisesmith.pipeline.search.tasks import ScoreTask
from tests.scorers.checks import (
    STEP,
    compute_norms_in_float64,
    decoder_in_float64,
    small_latents,
    two_scorers_in_float64,
)

PROMPTS = ["a cat and a red car", "a dog", "a blue bowl under a cat"]
WEIGHTS = (1.0, 2.5)
TASKS = [ScoreTask(prompt, gradient=True) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def decoder(tiny_sd: Path) -> Decoder:
    return decoder_in_float64(tiny_sd)


@pytest.fixture(scope="module")
def scorers(tiny_llava: Path, tiny_clip_flant5: Path) -> tuple[Llava, ClipFlanT5]:
    """Both in float64, with smooth preprocessing."""
    return two_scorers_in_float64(tiny_llava, tiny_clip_flant5)


@pytest.fixture(autouse=True)
def _norms_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    compute_norms_in_float64(monkeypatch)


def _config(combine: str, *, shared: bool) -> RunConfig:
    first = {"name": "llava", "weight": WEIGHTS[0]}
    second = {"name": "flan", "weight": WEIGHTS[1]} | ({"shares": "llava"} if shared else {})
    return RunConfig.model_validate({"scorers": [first, second], "combine": combine})


def _groups(scorers: tuple[Llava, ClipFlanT5], combine: str, *, shared: bool) -> list[Group]:
    lowest = combine == "min"
    members = [Member(scorer, weight) for scorer, weight in zip(scorers, WEIGHTS, strict=True)]
    return [Group(tuple(members), lowest)] if shared else [Group((member,), lowest) for member in members]


def _combined(decoder: Decoder, groups: list[Group], combination: Combination, latents: torch.Tensor) -> float:
    """log s of one z_0."""
    answers = [score(decoder, group, [ScoreTask(PROMPTS[0], gradient=False)], latents)[0] for group in groups]
    return math.log(combination.score([value for answer in answers for value in answer.log_scores]))


@pytest.mark.parametrize("shared", [True, False], ids=["one_worker", "two_workers"])
@pytest.mark.parametrize("combine", ["mean", "min"])
def test_scores_are_the_closed_form_and_gradients_are_finite_differences(
    decoder: Decoder, scorers: tuple[Llava, ClipFlanT5], combine: str, shared: bool
) -> None:
    latents = small_latents(1)
    groups = _groups(scorers, combine, shared=shared)
    combination = Combination(_config(combine, shared=shared))
    opinions = [score(decoder, group, TASKS[:1], latents)[0] for group in groups]
    log_scores = [value for opinion in opinions for value in opinion.log_scores]
    with torch.no_grad():
        images = decoder(latents)
        alone = [float(scorer.log_scores(PROMPTS[:1], images)) for scorer in scorers]
    assert log_scores == pytest.approx(alone, rel=1e-9)
    weighted = sum(weight * value for weight, value in zip(WEIGHTS, alone, strict=True)) / sum(WEIGHTS)
    expected = min(alone) if combine == "min" else weighted
    assert combination.score(log_scores) == pytest.approx(math.exp(expected), rel=1e-9)

    gradient = torch.zeros_like(latents[0])
    for slope in combination.slopes(opinions):
        gradient += slope.factor * slope.log_gradient
    for coordinate in range(0, latents.numel(), 41):
        delta = torch.zeros_like(latents)
        delta.view(-1)[coordinate] = STEP
        ahead = _combined(decoder, groups, combination, latents + delta)
        behind = _combined(decoder, groups, combination, latents - delta)
        assert (ahead - behind) / (2 * STEP) == pytest.approx(float(gradient.view(-1)[coordinate]), rel=1e-4, abs=1e-9)


def test_members_that_share_a_worker_read_the_same_decoded_images(
    decoder: Decoder, scorers: tuple[Llava, ClipFlanT5], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    call = Decoder.__call__

    def counted(self: Decoder, latents: torch.Tensor) -> torch.Tensor:
        decoded.append(len(latents))
        return call(self, latents)

    monkeypatch.setattr(Decoder, "__call__", counted)
    (group,) = _groups(scorers, "mean", shared=True)
    score(decoder, group, TASKS, small_latents(3))
    assert decoded == [3]


def test_the_order_of_a_batch_does_not_matter(decoder: Decoder, scorers: tuple[Llava, ClipFlanT5]) -> None:
    (group,) = _groups(scorers, "mean", shared=True)
    latents = small_latents(3)
    order = [2, 0, 1]
    forward = score(decoder, group, TASKS, latents)
    shuffled = score(decoder, group, [TASKS[place] for place in order], latents[order])
    for position, place in enumerate(order):
        assert shuffled[position].log_scores == pytest.approx(forward[place].log_scores, rel=1e-6)
        expected, found = forward[place].log_gradient, shuffled[position].log_gradient
        assert expected is not None
        assert found is not None
        assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_a_member_without_a_gradient_counts_in_the_score_alone(
    decoder: Decoder, scorers: tuple[Llava, ClipFlanT5]
) -> None:
    steering = Member(scorers[0], 1.0)
    silent = Member(scorers[1], 3.0, steers=False)
    both = score_latents(decoder, Group((steering, silent)), PROMPTS, small_latents(3), gradient=True)
    alone = score_latents(decoder, Group((steering,)), PROMPTS, small_latents(3), gradient=True)
    assert both.log_scores.shape == (2, 3)
    assert both.log_gradients is not None
    assert alone.log_gradients is not None
    assert torch.allclose(both.log_gradients, alone.log_gradients, rtol=1e-9)
    nothing = score_latents(decoder, Group((silent,)), PROMPTS, small_latents(3), gradient=True)
    assert nothing.log_gradients is None


def test_min_follows_the_lowest_member_whose_gradient_is_used() -> None:
    config = RunConfig.model_validate(
        {"scorers": [{"name": "a"}, {"name": "b", "gradient": False}, {"name": "c"}], "combine": "min"}
    )
    opinions = [Opinion((-1.0,), "a"), Opinion((-9.0,), None), Opinion((-3.0,), "c")]
    (slope,) = Combination(config).slopes(opinions)
    assert (slope.log_gradient, slope.factor) == ("c", 1.0)
    assert Combination(config).score([-1.0, -9.0, -3.0]) == math.exp(-9.0)


@pytest.mark.parametrize(("weights", "kept"), [((1.0, 1.5), 3), ((1.5, 1.0), 1), ((1.0, 1.0), 1)])
def test_rank_keeps_the_image_with_the_best_weighted_mean_rank(weights: tuple[float, float], kept: int) -> None:
    """Images 1 and 3 are each first for one member and third for the other; of equal mean ranks the earlier counts."""
    members = [{"name": "a", "weight": weights[0]}, {"name": "b", "weight": weights[1]}]
    combination = Combination(RunConfig.model_validate({"scorers": members, "combine": "rank"}))
    images = {0: (-5.0, -5.0), 1: (-0.1, -4.0), 2: (-0.2, -1.0), 3: (-3.0, -0.9)}
    assert combination.by_rank
    assert combination.best_by_rank(images) == kept


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_divides_the_log_odds(temperature: float) -> None:
    scores = torch.tensor([1e-6, 0.1, 0.5, 0.9, 0.999], dtype=torch.float64)
    expected = torch.sigmoid(torch.logit(scores) / temperature)
    found = calibrate(scores.log(), CalibrationConfig(temperature=temperature)).exp()
    assert torch.allclose(found, expected, rtol=1e-9)


def test_points_are_met_and_the_lines_between_and_beyond_them_rise() -> None:
    points = ((0.1, 0.02), (0.5, 0.4), (0.9, 0.95))
    calibration = CalibrationConfig(points=points)
    given = torch.tensor([score for score, _ in points], dtype=torch.float64)
    wanted = torch.tensor([probability for _, probability in points], dtype=torch.float64)
    assert torch.allclose(calibrate(given.log(), calibration).exp(), wanted, rtol=1e-9)
    middle = torch.sigmoid(torch.logit(given[:2]).mean()).log()[None]
    assert torch.allclose(torch.logit(calibrate(middle, calibration).exp()), torch.logit(wanted[:2]).mean()[None])
    everywhere = calibrate(torch.linspace(-300, 0, 2000, dtype=torch.float64), calibration)
    assert bool((everywhere.diff() >= 0).all())


@pytest.mark.parametrize("calibration", [{"temperature": 2.0}, {"points": [[0.2, 0.1], [0.6, 0.7], [0.8, 0.9]]}])
def test_a_calibration_has_a_gradient_also_where_a_score_underflows_or_is_one(calibration: dict[str, object]) -> None:
    config = CalibrationConfig.model_validate(calibration)
    for dtype in (torch.float32, torch.float64):
        log_scores = torch.tensor([-400.0, -2.0, -0.3, 0.0], dtype=dtype, requires_grad=True)
        calibrated = calibrate(log_scores, config)
        (slopes,) = torch.autograd.grad(calibrated.sum(), log_scores)
        assert calibrated.isfinite().all()
        assert slopes.isfinite().all()
        assert float(slopes[0]) > 0
    smooth = torch.tensor([-7.0, -2.0, -0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: calibrate(given, config), smooth)
