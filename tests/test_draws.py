"""The noises of written recipes stay what they are: digests of draws, which no version and no machine may change.

A recipe holds no noise, so this is the one place where a stored copy of our output is the reference. ``make draws``
runs it with the oldest NumPy that is allowed; the other tests use the newest.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from noisesmith.pipeline.noise import NoiseKey, digest, replay
from noisesmith.pipeline.records import Recipe

KEY = NoiseKey(20, "00000003-abcdef01", 2)
TAIL = 3.6541529  # beyond this the ziggurat draws by another rule, with logarithms


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 64, 64), "db082fb47e72a56bb7eccbe0776df7a0"),
        ((4, 128, 128), "4d51175eeda2acb415fdc8506cdab612"),
        ((16, 128, 128), "fbc18f5562a9f5037ba69fac6f7fce42"),
    ],
)
def test_draws_are_those_of_written_recipes(shape: tuple[int, ...], expected: str) -> None:
    draws = torch.stack([KEY.draw(index, shape) for index in range(10)])
    assert digest(draws) == expected
    tails = int((draws.abs() > TAIL).sum())
    mean = draws.numel() * 2 * stats.norm.sf(TAIL)
    assert abs(tails - mean) < 5 * math.sqrt(mean), "the digest covers as many of them as there should be"


def test_draws_far_out_are_those_of_written_recipes() -> None:
    """Four million values, of which about a thousand lie in the tails."""
    draw = NoiseKey(0, "p", 0).draw(0, (2**22,))
    assert digest(draw) == "2a87222bc213ad2163b34be33ec6d613"
    assert digest(draw[draw.abs() > TAIL]) == "53a7c1cbbf429a4bbdaf8e2aed6b932a"


def test_a_written_recipe_gives_its_noise() -> None:
    recipe = Recipe(
        method="noise_diffusion",
        seed=20,
        shape=(4, 64, 64),
        rounds=(1, 2, 5),
        gammas=(0.4183, 1.0, 1e-3),
        indices=(49, 0, 7),
        candidates=50,
        steps=20,
        batch_size=8,
        digest="2673f633d2e4669c4764c5d8ede59c79",
    )
    assert digest(replay(recipe, "00000003-abcdef01")) == recipe.digest


def test_words_of_the_generator_are_those_of_its_paper() -> None:
    """Philox4x64-10 (Salmon et al., SC 2011): the known answer of its authors for a counter and a key of all ones."""
    ones = 2**64 - 1
    words = np.random.Philox(counter=[ones - 1, ones, ones, ones], key=[ones, ones])  # NumPy counts up first
    expected = [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]
    assert [int(word) for word in words.random_raw(4)] == expected
