"""The noise mathematics against closed forms, float64 references and statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from noisesmith.pipeline.config import NoiseDiffusionConfig
from noisesmith.pipeline.noise import (
    CHUNK,
    NoiseKey,
    alignment,
    along,
    change,
    digest,
    from_bytes,
    kl_divergence,
    largest_of,
    replay,
    select,
    select_by_changes,
    statistics,
    step_size,
    storable,
    to_bytes,
    update,
    within_kl,
)
from noisesmith.pipeline.optimizers import Feedback
from noisesmith.pipeline.optimizers.noise_diffusion import NoiseDiffusion
from noisesmith.pipeline.optimizers.random_diffusion import RandomDiffusion
from noisesmith.pipeline.optimizers.random_sampling import RandomSampling
from noisesmith.pipeline.records import Recipe

SHAPE = (4, 16, 16)


def test_candidates_depend_on_their_key_alone() -> None:
    first = NoiseKey(1, "row", 3).draw(7, SHAPE)
    NoiseKey(1, "row", 3).draw(0, SHAPE)
    assert torch.equal(first, NoiseKey(1, "row", 3).draw(7, SHAPE))
    others = [NoiseKey(2, "row", 3).draw(7, SHAPE), NoiseKey(1, "other", 3).draw(7, SHAPE),
              NoiseKey(1, "row", 4).draw(7, SHAPE), NoiseKey(1, "row", 3).draw(8, SHAPE)]  # fmt: skip
    assert all(not torch.equal(first, other) for other in others)


def test_candidates_are_standard_normal_and_uncorrelated() -> None:
    draws = torch.stack([NoiseKey(0, "row", 1).draw(index, SHAPE) for index in range(100)]).flatten(1)
    assert stats.kstest(draws.flatten().numpy(), "norm").pvalue > 0.001
    correlation = np.corrcoef(draws.numpy())
    off_diagonal = correlation[~np.eye(100, dtype=bool)]
    assert abs(off_diagonal).max() < 5 / math.sqrt(draws.shape[1])


@pytest.mark.parametrize("score", [0.0, 0.01, 0.25, 0.9, 1.0])
def test_step_size_is_one_minus_root_score(score: float) -> None:
    assert step_size(score) == 1 - score**0.5


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan, math.inf])
def test_step_size_refuses_what_is_no_probability(score: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        step_size(score)


@settings(max_examples=25)
@given(gamma=st.floats(0, 1), rounds=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_independent_candidates_keep_the_noise_standard_normal(gamma: float, rounds: int, seed: int) -> None:
    """Level: 1e-6 a test, so a false alarm in these 25 examples has odds below 1 in 10,000."""
    shape = (4, 64, 64)
    noise = NoiseKey(seed, "row", 0).draw(0, shape)
    for round_ in range(1, rounds + 1):
        noise = update(noise, gamma, NoiseKey(seed, "row", round_).draw(0, shape))
    values = noise.double().numpy().ravel()
    count = values.size
    level = stats.norm.isf(0.5e-6)
    assert abs(values.mean()) < level / math.sqrt(count)
    assert abs(values.var() - 1) < level * math.sqrt(2 / count)
    assert stats.kstest(values, "norm").pvalue > 1e-6


@settings(max_examples=20)
@given(gamma=st.floats(0.001, 1), seed=st.integers(0, 2**32), count=st.integers(1, 2 * CHUNK + 3))
def test_selection_is_the_papers_argmax(gamma: float, seed: int, count: int) -> None:
    """Against the formula written out in float64 with no chunks."""
    shape = (2, 4, 4)
    key = NoiseKey(seed, "row", 1)
    noise, gradient = NoiseKey(seed, "row", 0).draw(0, shape), NoiseKey(seed, "gradient", 0).draw(0, shape)
    chosen = select(noise, gamma, gradient, key, count)
    z, g = noise.double().numpy().ravel(), gradient.double().numpy().ravel()
    values = []
    for index in range(count):
        v = (math.sqrt(1 - gamma) - 1) * z + math.sqrt(gamma) * key.draw(index, shape).double().numpy().ravel()
        values.append(g @ v / (v @ v))
    assert values[chosen] == pytest.approx(max(values), rel=1e-4, abs=1e-6)


@settings(max_examples=40)
@given(gamma=st.floats(1e-6, 1), scale=st.floats(1e-40, 1e30), along=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_selection_by_products_and_by_changes_is_the_same(gamma: float, scale: float, along: float, seed: int) -> None:
    """Also where the gradient lies along the noise, and where float32 underflows or overflows."""
    key = NoiseKey(seed, "row", 1)
    noise, gradient = NoiseKey(seed, "z", 0).draw(0, SHAPE), NoiseKey(seed, "g", 0).draw(0, SHAPE)
    steering = (along * noise + (1 - along) * gradient) * scale
    assert select(noise, gamma, steering, key, 20) == select_by_changes(noise, gamma, steering, key, 20)


def test_nearly_equal_candidates_are_told_apart_by_their_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates 3 and 7 are equal: which of them is the best, the products cannot say."""
    drawn = NoiseKey._generator
    monkeypatch.setattr(NoiseKey, "_generator", lambda key, index: drawn(key, 3 if index == 7 else index))
    key = NoiseKey(0, "row", 1)
    noise = NoiseKey(0, "row", 0).draw(0, SHAPE)
    assert select(noise, 0.5, key.draw(3, SHAPE), key, 10) == 3


def test_without_a_gradient_the_first_candidate_is_taken() -> None:
    key = NoiseKey(0, "row", 1)
    assert select(key.draw(0, SHAPE), 0.5, torch.zeros(SHAPE), key, 10) == 0


def test_a_candidate_is_drawn_over_a_tensor_as_it_is_drawn_alone() -> None:
    key = NoiseKey(7, "row", 3)
    noise = torch.empty(math.prod(SHAPE))
    key.draw_into(5, noise)
    assert torch.equal(noise.reshape(SHAPE), key.draw(5, SHAPE))


@settings(max_examples=20)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32))
def test_a_positive_multiple_of_the_gradient_selects_the_same(scale: float, seed: int) -> None:
    noise, gradient = NoiseKey(seed, "z", 0).draw(0, SHAPE), NoiseKey(seed, "g", 0).draw(0, SHAPE)
    key = NoiseKey(seed, "row", 1)
    chosen = select(noise, 0.3, gradient, key, 50)
    candidates = torch.stack([key.draw(index, SHAPE) for index in range(50)])
    values = alignment(change(noise, 0.3, candidates), gradient * scale)
    assert float(values[chosen]) == pytest.approx(float(values.max()), rel=1e-4)


def test_selection_follows_the_gradient_more_than_chance_does() -> None:
    """cos(v, ∇) of the best of 50 beats a random draw's on average."""
    gains = []
    for seed in range(60):
        noise, gradient = NoiseKey(seed, "z", 0).draw(0, SHAPE), NoiseKey(seed, "g", 0).draw(0, SHAPE)
        key = NoiseKey(seed, "row", 1)
        both = torch.stack([key.draw(select(noise, 0.5, gradient, key, 50), SHAPE), key.draw(0, SHAPE)])
        cosines = torch.cosine_similarity(change(noise, 0.5, both).flatten(1), gradient.flatten()[None])
        gains.append(float(cosines[0] - cosines[1]))
    assert stats.ttest_1samp(gains, 0, alternative="greater").pvalue < 1e-6


def _search(
    optimizer: NoiseDiffusion | RandomSampling | RandomDiffusion, row_id: str, scores: list[float]
) -> tuple[torch.Tensor, Recipe]:
    noise = NoiseKey(5, row_id, 0).draw(0, SHAPE)
    gammas, indices = [], []
    for round_, score in enumerate(scores, start=1):
        gradient = NoiseKey(9, row_id, round_).draw(0, SHAPE)
        proposal = optimizer.propose(noise[None], Feedback(score, gradient, 1.0), NoiseKey(5, row_id, round_))
        (noise,) = proposal.state
        gammas.append(proposal.gamma)
        indices.append(proposal.index)
    rounds = tuple(range(1, len(scores) + 1))
    return noise, Recipe("m", 5, SHAPE, rounds, tuple(gammas), tuple(indices), 20, 50, 1, digest(noise))


@pytest.mark.parametrize(
    "optimizer", [NoiseDiffusion(NoiseDiffusionConfig(candidates=20)), RandomSampling(), RandomDiffusion()]
)
@pytest.mark.parametrize("scores", [[], [0.0], [0.1, 0.5, 0.99, 1.0, 0.3]])
def test_a_recipe_rebuilds_the_noise_bit_for_bit(
    optimizer: NoiseDiffusion | RandomSampling | RandomDiffusion, scores: list[float]
) -> None:
    noise, recipe = _search(optimizer, "00000003-abcdef01", scores)
    rebuilt = replay(recipe, "00000003-abcdef01")
    assert torch.equal(rebuilt, noise)
    assert digest(rebuilt) == recipe.digest
    assert digest(replay(recipe, "another")) != recipe.digest


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.5)])
def test_statistics_agree_with_scipy(shift: float, scale: float) -> None:
    noise = NoiseKey(0, "row", 0).draw(0, SHAPE) * scale + shift
    measured = statistics(noise)
    values = noise.double().numpy().ravel()
    assert measured.mean == pytest.approx(values.mean(), abs=1e-9)
    assert measured.std == pytest.approx(values.std(), rel=1e-9)
    assert measured.norm == pytest.approx(np.linalg.norm(values) / math.sqrt(values.size), rel=1e-9)
    assert measured.ks == pytest.approx(stats.kstest(values, "norm").statistic, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 50, 10**3, 10**6])
def test_the_order_statistic_follows_the_law_of_the_maximum(count: int) -> None:
    """P(max ≤ x) = Φ(x)^N; level 1e-4."""
    normals = NoiseKey(3, "t", 0).draw(count, (4000,)).double().tolist()
    drawn = [largest_of(count, normal) for normal in normals]
    assert stats.kstest(drawn, lambda x: np.exp(count * stats.norm.logcdf(x))).pvalue > 1e-4


def test_the_order_statistics_medians_are_those_of_the_closed_form() -> None:
    for count in (1, 50, 10**6):
        assert largest_of(count, 0.0) == pytest.approx(stats.norm.ppf(0.5 ** (1 / count)), abs=1e-9)
    assert largest_of(50, 0.0) == pytest.approx(2.2, abs=0.05)
    assert largest_of(10**6, 0.0) == pytest.approx(4.83, abs=0.05)


@settings(max_examples=30)
@given(length=st.floats(-5, 5), seed=st.integers(0, 2**32))
def test_a_candidate_is_replaced_along_the_gradient_only(length: float, seed: int) -> None:
    candidate, gradient = NoiseKey(seed, "c", 0).draw(0, SHAPE), NoiseKey(seed, "g", 0).draw(0, SHAPE) * 1e-3
    unit = (gradient / gradient.norm()).double()
    moved = along(candidate, gradient, length).double()
    assert float((moved * unit).sum()) == pytest.approx(length, abs=1e-4)
    across = candidate.double() - (candidate.double() * unit).sum() * unit
    assert torch.allclose(moved - (moved * unit).sum() * unit, across, atol=1e-5)
    assert torch.equal(along(candidate, torch.zeros_like(gradient), length), candidate)


def test_the_divergence_is_the_mean_kl_of_normals() -> None:
    mean, log_variance = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    normals = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(normals, torch.distributions.Normal(0.0, 1.0)).flatten(1).mean(1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


@given(seed=st.integers(0, 2**32), spread=st.floats(0, 5), skew=st.floats(0, 5), bound=st.floats(1e-6, 1.0))
def test_scaling_keeps_the_divergence_bound_exactly_and_moves_no_further_than_needed(
    seed: int, spread: float, skew: float, bound: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean = spread * torch.randn(4, 2, 3, 3, generator=generator)
    log_variance = skew * torch.randn(4, 2, 3, 3, generator=generator)
    mean[3], log_variance[3] = 0.1 * math.sqrt(bound), 0.0  # well inside: not to be touched
    scaled = within_kl(mean, log_variance, bound)
    assert bool((kl_divergence(*scaled) <= bound).all())
    assert torch.equal(scaled[0][3], mean[3])
    for row in range(3):
        if float(kl_divergence(mean, log_variance)[row]) <= bound:
            assert torch.equal(scaled[0][row], mean[row])
            assert torch.equal(scaled[1][row], log_variance[row])
            continue
        before, after = (torch.cat([first[row], second[row]]) for first, second in ((mean, log_variance), scaled))
        torch.testing.assert_close(after * before.norm(), before * after.norm(), rtol=1e-4, atol=1e-5)
        assert float(kl_divergence(*scaled)[row]) >= bound * (1 - 1e-3)


def test_a_storable_noise_comes_back_from_its_bytes_bit_for_bit() -> None:
    noise = storable(NoiseKey(0, "row", 0).draw(0, SHAPE))
    data = to_bytes(noise)
    assert len(data) == 2 * noise.numel()
    assert digest(from_bytes(data, SHAPE)) == digest(noise)
