"""The mathematics of the noise search: seeded candidates, the update, the selection, and their replay.

Symbols follow *Noise Diffusion* (arXiv 2411.16503): ``z_T`` the initial noise, ``s`` the score P("Yes") in [0, 1],
``γ`` the step size, ``σ`` a candidate noise, ``v`` the change a candidate would make to ``z_T``.
Tensors are float32 of one row's latent shape ``[C, H, W]`` unless a docstring says otherwise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.records import NoiseStats, Recipe

if TYPE_CHECKING:
    from torch import Tensor

BISECTIONS = 40  # halve an interval of length 1 to below float32 resolution
CHUNK = 256  # candidates held in memory at once: 16 MiB of SD 1.5 latents
# Error of float32 sums over a noise, as a share of what Cauchy and Schwarz allow; five times the largest found.
SUM_ERROR = 2.0**-17


@dataclass(frozen=True)
class NoiseKey:
    """Names one candidate family: the same (seed, row, round) draws the same noises wherever it is drawn."""

    seed: int
    row_id: str
    round: int

    def draw(self, index: int, shape: Iterable[int]) -> Tensor:
        """Candidate ``index`` as N(0, I) of ``shape``, from a counter-based generator (Philox) keyed by all four.

        A candidate costs the same whatever its index, so a recipe rebuilds σ* without drawing the ones before it.
        """
        return torch.from_numpy(self._generator(index).standard_normal(tuple(shape), dtype=np.float32))

    def draw_into(self, index: int, noise: Tensor) -> None:
        """Candidate ``index`` as :meth:`draw` gives it, written over ``noise``, contiguous float32."""
        self._generator(index).standard_normal(dtype=np.float32, out=noise.numpy())

    def _generator(self, index: int) -> np.random.Generator:
        text = f"{self.seed}/{self.row_id}/{self.round}/{index}"
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
        return np.random.Generator(np.random.Philox(key=key))


def step_size(score: float) -> float:
    """γ = 1 − √s (paper, section 3): a full redraw at s = 0, no move at s = 1.

    Raises:
        ValueError: the score is not in [0, 1].
    """
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"score {score} is not a probability")
    return 1.0 - math.sqrt(score)


def update(noise: Tensor, gamma: float, candidate: Tensor) -> Tensor:
    """z_T ← √(1−γ)·z_T + √γ·σ: keeps N(0, I) for any γ in [0, 1] when σ is independent of z_T."""
    return noise * math.sqrt(1.0 - gamma) + candidate * math.sqrt(gamma)


def change(noise: Tensor, gamma: float, candidates: Tensor) -> Tensor:
    """v = (√(1−γ) − 1)·z_T + √γ·σ for candidates ``[N, C, H, W]``."""
    return noise * (math.sqrt(1.0 - gamma) - 1.0) + candidates * math.sqrt(gamma)


def alignment(changes: Tensor, gradient: Tensor) -> Tensor:
    """⟨∇s, v⟩ / ‖v‖² for changes ``[N, C, H, W]`` and a gradient ``[C, H, W]``; returns ``[N]``."""
    flat = changes.flatten(1)
    aligned: Tensor = (flat @ gradient.flatten()) / flat.square().sum(1)
    return aligned


def select(noise: Tensor, gamma: float, gradient: Tensor, key: NoiseKey, candidates: int) -> int:
    """The index of σ* = argmax_i ⟨∇s, v_i⟩ / ‖v_i‖² among ``candidates`` seeded draws.

    Any positive multiple of ∇s gives the same answer, so ∇_{z_0} s stands for ∇_{z_T} s. Where the gradient is zero
    all candidates tie and the first is taken.

    v_i is a sum of z_T and σ_i, so the products of these three tensors give the values without any v_i. Rounding may
    hide which of nearly equal candidates is the best. Then, about once in 100 times, :func:`select_by_changes` decides.
    """
    if candidates == 1 or not gradient.any():
        return 0
    values, errors = _estimate_alignments(noise, gamma, gradient, key, candidates)
    best = int(values.argmax())
    # NaN compares as false, so an overflow leaves no certain winner either.
    others_are_worse = values + errors < values[best] - errors[best]
    if others_are_worse.sum() == candidates - 1:
        return best
    return select_by_changes(noise, gamma, gradient, key, candidates)


def select_by_changes(noise: Tensor, gamma: float, gradient: Tensor, key: NoiseKey, candidates: int) -> int:
    """What :func:`select` returns, from every change v_i itself: takes twice as long."""
    best = 0
    best_value = -math.inf
    for start in range(0, candidates, CHUNK):
        indices = range(start, min(start + CHUNK, candidates))
        drawn = torch.stack([key.draw(index, noise.shape) for index in indices])
        values = alignment(change(noise, gamma, drawn), gradient)
        position = int(values.argmax())
        value = float(values[position])
        if value > best_value:
            best = start + position
            best_value = value
    return best


def _estimate_alignments(
    noise: Tensor, gamma: float, gradient: Tensor, key: NoiseKey, candidates: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """⟨∇s, v_i⟩ / ‖v_i‖² of every candidate ``[N]``, and by how much each may differ from :func:`alignment`.

    With v = a·z_T + b·σ: ⟨∇s, v⟩ = a·⟨∇s, z_T⟩ + b·⟨∇s, σ⟩ and ‖v‖² = a²·‖z_T‖² + 2ab·⟨z_T, σ⟩ + b²·‖σ‖².
    Each candidate is used while it is in the processor's cache.
    """
    both = torch.stack([gradient.flatten(), noise.flatten()])
    products = torch.empty(candidates, 3)
    drawn = torch.empty(noise.numel())
    for index in range(candidates):
        key.draw_into(index, drawn)
        products[index, :2] = both @ drawn
        products[index, 2] = drawn @ drawn
    (gradient_square, gradient_noise), (_, noise_square) = (both.double() @ both.double().T).tolist()
    gradient_drawn, noise_drawn, drawn_square = products.double().numpy().T

    a = math.sqrt(1.0 - gamma) - 1.0
    b = math.sqrt(gamma)
    with_gradient = a * gradient_noise + b * gradient_drawn
    squares = a * a * noise_square + 2 * a * b * noise_drawn + b * b * drawn_square
    longest = abs(a) * math.sqrt(noise_square) + b * np.sqrt(drawn_square)  # ‖v‖ is at most this
    underflow = noise.numel() * torch.finfo(torch.float32).tiny
    with_gradient_error = SUM_ERROR * math.sqrt(gradient_square) * longest + underflow
    square_error = SUM_ERROR * longest**2
    with np.errstate(divide="ignore", invalid="ignore"):
        values = with_gradient / squares
        errors = (with_gradient_error + abs(values) * square_error) / np.maximum(squares - square_error, 0.0)
    return values, errors


def largest_of(count: int, normal: float) -> float:
    """The maximum of ``count`` N(0, 1) draws, from a single one by inverse transform: Φ⁻¹(Φ(x)^(1/count)).

    Costs the same for any count. The upper tail is taken as 1 − Φ(x)^(1/count) = −expm1(log Φ(x) / count), so
    that large counts keep their precision.
    """
    log_power = torch.special.log_ndtr(torch.tensor(normal, dtype=torch.float64)) / count
    return -float(torch.special.ndtri(-torch.expm1(log_power)))


def along(candidate: Tensor, gradient: Tensor, length: float) -> Tensor:
    """σ_⊥ + length·ĝ: a candidate whose part along the gradient is replaced; unchanged where the gradient is zero."""
    norm = gradient.norm()
    if not norm > 0:
        return candidate
    unit = gradient / norm
    turned: Tensor = candidate + (length - (candidate * unit).sum()) * unit
    return turned


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) in nats, mean over each row's elements: float64 ``[B]`` from ``[B, …]``."""
    means = mean.double().flatten(1)
    log_variances = log_variance.double().flatten(1)
    return (means.square() + log_variances.expm1() - log_variances).mean(1) / 2


def within_kl(mean: Tensor, log_variance: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Scale each row's (μ, log σ²) ``[B, …]`` by the largest factor in [0, 1] whose divergence is at most ``bound``.

    The divergence grows along the ray from (0, 0), so bisection finds the factor. It is tested on the rounded values
    that are returned, so they keep the bound exactly.
    """

    def fits(factor: Tensor) -> Tensor:
        return kl_divergence(factor * mean, factor * log_variance) <= bound

    shape = (len(mean), *[1] * (mean.dim() - 1))
    high = mean.new_ones(len(mean))
    low = torch.where(fits(high.view(shape)), high, torch.zeros_like(high))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        inside = fits(middle.view(shape))
        low = torch.where(inside, middle, low)
        high = torch.where(inside, high, middle)
    factor = low.view(shape)
    return factor * mean, factor * log_variance


def storable(noise: Tensor) -> Tensor:
    """A noise rounded to the nearest float16 values, still float32: what is stored in fp16 is then the noise itself."""
    return noise.half().float()


def to_bytes(noise: Tensor) -> bytes:
    """The float16 little-endian bytes of a noise, row-major: exact for one from :func:`storable`, else rounded."""
    return noise.numpy().astype("<f2").tobytes()


def from_bytes(data: bytes, shape: tuple[int, ...]) -> Tensor:
    """The float32 noise of :func:`to_bytes`."""
    return torch.from_numpy(np.frombuffer(data, "<f2").astype(np.float32).reshape(shape))


def replay(recipe: Recipe, row_id: str) -> Tensor:
    """Rebuild the kept z_T, bit for bit: fold the recipe's (round, γ, index) over the row's seeded candidates."""
    noise = NoiseKey(recipe.seed, row_id, 0).draw(0, recipe.shape)
    for round_, gamma, index in zip(recipe.rounds, recipe.gammas, recipe.indices, strict=True):
        noise = update(noise, gamma, NoiseKey(recipe.seed, row_id, round_).draw(index, recipe.shape))
    return noise


def rebuild(recipe: Recipe, row_id: str, stored: bytes | None) -> Tensor:
    """The kept z_T of a written row: the noise stored with it if there is one, else the noise of its recipe.

    A first image's noise is a draw that no float16 holds, so where the stored noise lacks the recipe's digest and the
    recipe's noise has it, it is the latter.
    """
    if stored is None:
        return replay(recipe, row_id)
    noise = from_bytes(stored, recipe.shape)
    if digest(noise) != recipe.digest:
        replayed = replay(recipe, row_id)
        if digest(replayed) == recipe.digest:
            return replayed
    return noise


def digest(noise: Tensor) -> str:
    """BLAKE2b of the float32 little-endian bytes of a noise, 32 hex digits: equal digests mean equal bits."""
    data = noise.detach().contiguous().numpy().astype("<f4", copy=False)
    return hashlib.blake2b(data.tobytes(), digest_size=16).hexdigest()


def statistics(noise: Tensor) -> NoiseStats:
    """How far a noise is from N(0, I): mean, standard deviation, ‖z‖/√D and the Kolmogorov–Smirnov distance."""
    # NumPy sorts float32 ten times as fast as torch.
    values = torch.from_numpy(np.sort(noise.detach().flatten().numpy())).double()
    count = values.numel()
    cumulative = torch.special.ndtr(values)
    above = torch.arange(1, count + 1, dtype=torch.float64) / count - cumulative
    below = cumulative - torch.arange(count, dtype=torch.float64) / count
    return NoiseStats(
        mean=float(values.mean()),
        std=float(values.std(correction=0)),
        norm=float(values.norm() / math.sqrt(count)),
        ks=float(torch.maximum(above, below).max()),
    )


def check_finite(name: str, values: Tensor) -> None:
    """Refuse a batch ``[B, …]`` that holds NaN or infinity.

    Raises:
        FloatingPointError: the message gives the positions in the batch.
    """
    bad = (~values.reshape(len(values), -1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"{name} is not finite at batch positions {bad}")
