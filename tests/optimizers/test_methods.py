"""Each method's update against an independent computation in float64, and what it promises about the noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from noisesmith.pipeline.config import METHODS, MeanVarianceConfig, NoiseDiffusionConfig, PgdConfig, RunConfig
from noisesmith.pipeline.noise import NoiseKey, change, kl_divergence, select, storable
from noisesmith.pipeline.optimizers import Feedback, Optimizer, build_optimizer
from noisesmith.pipeline.optimizers.mean_variance import MeanVariance
from noisesmith.pipeline.optimizers.noise_diffusion import NoiseDiffusion
from noisesmith.pipeline.optimizers.pgd import Pgd
from noisesmith.pipeline.optimizers.random_diffusion import RandomDiffusion
from noisesmith.pipeline.optimizers.random_sampling import RandomSampling

SHAPE = (4, 16, 16)
KEY = NoiseKey(5, "row", 1)
seeds = st.integers(0, 2**32)


def order_statistic(count: int = 50) -> NoiseDiffusion:
    return NoiseDiffusion(NoiseDiffusionConfig(candidates=count, selection="order_statistic"))


def first(seed: int = 5) -> torch.Tensor:
    return NoiseKey(seed, "row", 0).draw(0, SHAPE)


def gradient(seed: int, scale: float = 1.0) -> torch.Tensor:
    return NoiseKey(seed, "gradient", 0).draw(0, SHAPE) * scale


@settings(max_examples=20)
@given(score=st.floats(0, 1), seed=seeds)
@example(score=0.9999999999999999, seed=0)
def test_random_diffusion_is_one_random_step_of_the_adaptive_size(score: float, seed: int) -> None:
    key = NoiseKey(seed, "row", 1)
    proposal = RandomDiffusion().propose(first(seed)[None], Feedback(score, None, 1.0), key)
    gamma = 1 - score**0.5
    expected = math.sqrt(1 - gamma) * first(seed).double() + math.sqrt(gamma) * key.draw(0, SHAPE).double()
    assert proposal.gamma == pytest.approx(gamma, abs=1e-15)  # a power and a root may round apart near 1
    assert proposal.index == 0
    assert torch.allclose(proposal.state[0].double(), expected, atol=1e-6)


def test_random_sampling_draws_afresh_whatever_the_score() -> None:
    for score in (0.0, 0.9, 1.0):
        proposal = RandomSampling().propose(first()[None], Feedback(score, None, 1.0), KEY)
        assert torch.equal(proposal.state[0], KEY.draw(0, SHAPE))


def test_noise_diffusion_moves_to_its_selected_candidate_and_stays_at_a_perfect_score() -> None:
    method = NoiseDiffusion(NoiseDiffusionConfig(candidates=20))
    proposal = method.propose(first()[None], Feedback(0.3, gradient(1), 1.0), KEY)
    gamma = 1 - 0.3**0.5
    index = select(first(), gamma, gradient(1), KEY, 20)
    expected = math.sqrt(1 - gamma) * first().double() + math.sqrt(gamma) * KEY.draw(index, SHAPE).double()
    assert (proposal.gamma, proposal.index) == (gamma, index)
    assert torch.allclose(proposal.state[0].double(), expected, atol=1e-6)
    assert torch.equal(method.propose(first()[None], Feedback(1.0, gradient(1), 1.0), KEY).state[0], first())


@settings(max_examples=25)
@given(count=st.integers(1, 10**6), score=st.floats(0, 0.99), seed=seeds)
def test_the_order_statistic_moves_along_the_gradient_by_the_law_of_the_maximum(
    count: int, score: float, seed: int
) -> None:
    key = NoiseKey(seed, "row", 1)
    slope = gradient(seed, 1e-4)
    moved = order_statistic(count).propose(first(seed)[None], Feedback(score, slope, 1.0), key).state[0].double()
    gamma = 1 - score**0.5
    unit = (slope / slope.norm()).double()
    rest = (moved - math.sqrt(1 - gamma) * first(seed).double()) / math.sqrt(gamma)
    uniform = stats.norm.cdf(float(key.draw(1, (1,))))
    length = -stats.norm.ppf(-math.expm1(math.log(uniform) / count))
    assert float((rest * unit).sum()) == pytest.approx(length, abs=2e-2 / math.sqrt(gamma))
    drawn = key.draw(0, SHAPE).double()
    across = (rest - (rest * unit).sum() * unit) - (drawn - (drawn * unit).sum() * unit)
    assert float(across.abs().max()) < 1e-2 / math.sqrt(gamma)


def test_the_order_statistic_has_the_papers_law_of_the_cosine() -> None:
    """cos(v, ∇) of best-of-50 and of the order statistic at N = 50: one distribution (Kolmogorov–Smirnov, 1e-3)."""
    shape, gamma = (4, 32, 32), 0.5
    cosines: dict[str, list[float]] = {"candidates": [], "order_statistic": []}
    for seed in range(250):
        noise, slope = NoiseKey(seed, "z", 0).draw(0, shape), NoiseKey(seed, "g", 0).draw(0, shape)
        key = NoiseKey(seed, "row", 1)
        chosen = key.draw(select(noise, gamma, slope, key, 50), shape)
        imitated = order_statistic(50).propose(noise[None], Feedback((1 - gamma) ** 2, slope, 1.0), key).state[0]
        for name, v in (("candidates", change(noise, gamma, chosen[None])[0]), ("order_statistic", imitated - noise)):
            cosines[name].append(float(torch.cosine_similarity(v.flatten(), slope.flatten(), dim=0)))
    assert stats.ks_2samp(*cosines.values()).pvalue > 1e-3
    assert np.mean(cosines["candidates"]) == pytest.approx(np.mean(cosines["order_statistic"]), abs=0.003)


@settings(max_examples=20)
@given(count=st.sampled_from([50, 10**3, 10**6]), score=st.floats(0, 0.95), seed=seeds)
def test_the_order_statistic_leaves_all_but_one_direction_standard_normal(count: int, score: float, seed: int) -> None:
    """Many rounds whose gradients are independent of the noise; level 1e-6 a test."""
    noise = first(seed)[None]
    for round_ in range(1, 15):
        feedback = Feedback(score, gradient(seed + round_), 1.0)
        noise = order_statistic(count).propose(noise, feedback, NoiseKey(seed, "row", round_)).state
    units = torch.stack([gradient(seed + round_).flatten().double() for round_ in range(1, 15)])
    basis, _ = torch.linalg.qr(units.T)
    values = noise[0].flatten().double()
    across = values - basis @ (basis.T @ values)
    degrees = values.numel() - 14
    assert 1e-6 < stats.chi2.cdf(float(across.square().sum()), degrees) < 1 - 1e-6


@pytest.mark.parametrize("bound", [None, 1.0, 0.9])
def test_projected_gradient_ascent_is_its_closed_form(bound: float | None) -> None:
    slope, gain, z = gradient(1, 1e-3), 13.0, first().double()
    raw = Pgd(PgdConfig(step=5.0, normalize=False, norm_bound=bound)).propose(
        first()[None], Feedback(0.2, slope, gain), KEY
    )
    unit = Pgd(PgdConfig(step=0.1, normalize=True, norm_bound=bound)).propose(
        first()[None], Feedback(0.2, slope, gain), KEY
    )
    root = math.sqrt(z.numel())
    ascents = (5.0 * gain * 0.2 * slope.double(), 0.1 * root * slope.double() / slope.double().norm())
    for proposal, ascent in zip((raw, unit), ascents, strict=True):
        expected = z + ascent
        if bound is not None and expected.norm() > bound * root:
            expected *= bound * root / expected.norm()
        assert torch.allclose(proposal.state[0].double(), expected, rtol=1e-3, atol=1e-4)


@settings(max_examples=20)
@given(bound=st.floats(0.5, 1.2), seed=seeds)
def test_projected_gradient_ascent_keeps_its_norm_bound(bound: float, seed: int) -> None:
    state = first(seed)[None]
    for round_ in range(1, 8):
        feedback = Feedback(0.1, gradient(seed + round_), 1.0)
        state = Pgd(PgdConfig(step=0.3, norm_bound=bound)).propose(state, feedback, NoiseKey(seed, "row", round_)).state
    assert float(state[0].norm()) / math.sqrt(state[0].numel()) <= bound * (1 + 1e-3)


@pytest.mark.parametrize(
    "method", [NoiseDiffusion(NoiseDiffusionConfig(candidates=20)), order_statistic(20), Pgd(PgdConfig())]
)
def test_a_score_too_small_for_a_float_steers_by_the_gradient_of_its_logarithm(method: Optimizer) -> None:
    """The direction counts alone, so a score of 0 moves the noise as a tiny one does."""
    underflown = method.propose(first()[None], Feedback(math.exp(-800.0), gradient(1, 30.0), 1.0), KEY)
    tiny = method.propose(first()[None], Feedback(1e-30, gradient(1), 1.0), KEY)
    assert torch.allclose(underflown.state, tiny.state, atol=1e-3)
    backwards = method.propose(first()[None], Feedback(0.0, gradient(1, -30.0), 1.0), KEY)
    assert not torch.allclose(underflown.state, backwards.state, atol=1e-3)


def test_ascent_with_no_gradient_to_follow_stays() -> None:
    proposal = Pgd(PgdConfig()).propose(first()[None], Feedback(0.2, torch.zeros(SHAPE), 1.0), KEY)
    assert torch.equal(proposal.state[0], storable(first()))


def test_mean_and_variance_follow_autograd_and_torchs_adam() -> None:
    """Against autograd through z = μ + σ·ε and ``torch.optim.Adam`` in float64, five rounds, bound out of reach."""
    epsilon = first().double()
    mean, log_variance = (torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([mean, log_variance], lr=0.02, maximize=True)
    state, method = first()[None], MeanVariance(MeanVarianceConfig(learning_rate=0.02, kl_bound=100.0))
    for round_ in range(1, 6):
        slope = gradient(round_)
        adam.zero_grad()
        (3.0 * 0.4 * slope.double() * (mean + (log_variance / 2).exp() * epsilon)).sum().backward()
        adam.step()
        state = method.propose(state, Feedback(0.4, slope, 3.0), NoiseKey(5, "row", round_)).state
        assert torch.allclose(state[1].double(), mean, atol=1e-5)
        assert torch.allclose(state[2].double(), log_variance, atol=1e-5)
        expected = mean + (log_variance / 2).exp() * epsilon
        assert torch.allclose(state[0].double(), expected, rtol=1e-3, atol=1e-4)


@settings(max_examples=15)
@given(bound=st.floats(1e-5, 1e-2), rate=st.floats(1e-3, 0.5), seed=seeds)
def test_mean_and_variance_keep_the_divergence_bound_and_so_the_noise(bound: float, rate: float, seed: int) -> None:
    state, method = first()[None], MeanVariance(MeanVarianceConfig(learning_rate=rate, kl_bound=bound))
    for round_ in range(1, 8):
        state = method.propose(state, Feedback(0.4, gradient(seed + round_), 1.0), NoiseKey(5, "row", round_)).state
        assert float(kl_divergence(state[1:2], state[2:3])) <= bound
    drift = state[0].double() - first().double()
    assert float(drift.square().mean()) <= 2 * (2 * bound + 4 * bound * float(first().double().square().max())) + 1e-6


@pytest.mark.parametrize("method", [order_statistic(), Pgd(PgdConfig()), MeanVariance(MeanVarianceConfig())])
def test_noises_that_no_recipe_rebuilds_are_storable_exactly(method: Optimizer) -> None:
    state = method.propose(first()[None], Feedback(0.3, gradient(2), 1.0), KEY).state
    assert torch.equal(state[0], storable(state[0]))


@pytest.mark.parametrize(
    "method",
    [NoiseDiffusion(NoiseDiffusionConfig()), order_statistic(), Pgd(PgdConfig()), MeanVariance(MeanVarianceConfig())],
)
def test_a_gradient_method_without_a_gradient_is_refused(method: NoiseDiffusion | Pgd | MeanVariance) -> None:
    assert method.config.needs_gradient
    with pytest.raises(ValueError, match="gradient"):
        method.propose(first()[None], Feedback(0.5, None, 1.0), KEY)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_built_from_config_alone(method: str) -> None:
    config = RunConfig.model_validate({"corpus": {"source": "x"}, "optimizer": {"method": method}})
    assert config.optimizer.method == method
    build_optimizer(config.optimizer)
