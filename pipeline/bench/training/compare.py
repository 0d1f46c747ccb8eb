"""The figures of a comparison of trainings, computed from the results of its arms, without models.

Everything is paired: the values of a prompt are averaged over seeds, differences are between the same prompts, whose
images begin with the same noises, and intervals are 95 % bootstrap intervals over prompts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from noisesmith.pipeline.bench.training.arms import ARMS, BASELINE, REFERENCE
from noisesmith.pipeline.bench.training.results import Results
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.report.summary import Array, Estimate, estimates

COMPARED_WITH = (REFERENCE, BASELINE)


@dataclass(frozen=True)
class Measure:
    """One measure of one arm.

    Attributes:
        mean: over prompts; ``None`` where no prompt has a value.
        by_seed: the mean of each seed.
        differences: arm − reference, by the reference's label; none of an arm from itself.
    """

    mean: Estimate | None
    by_seed: tuple[float | None, ...]
    differences: dict[str, Estimate | None]


@dataclass(frozen=True)
class ArmFigures:
    """One arm: what it was trained on, in how much time, and its measures by name."""

    pictures: int
    steps: int
    pictures_per_step: int
    seconds: float
    first_loss: float | None
    last_loss: float | None
    measures: dict[str, Measure]


def compare_arms(results: Sequence[Results]) -> dict[str, ArmFigures]:
    """The figures of each arm, by label, in the arms' order.

    Raises:
        UserError: arms were trained on different numbers of pictures or steps, or have other prompts or measures.
    """
    by_arm: dict[str, list[Results]] = {}
    for arm in ARMS:
        of_arm = [one for one in results if one.arm == arm.label]
        if of_arm:
            by_arm[arm.label] = sorted(of_arm, key=lambda one: one.seed)
    _check_equal(results)
    names = list(results[0].prompts[0])
    values: dict[str, dict[str, Array]] = {}
    for label, of_arm in by_arm.items():
        values[label] = {name: _values(of_arm, name) for name in names}
    return {label: _figures(label, of_arm, values, names) for label, of_arm in by_arm.items()}


def _check_equal(results: Sequence[Results]) -> None:
    """Refuse arms that cannot be compared: it would not be their pictures alone that differ."""
    trained = [one for one in results if one.steps]
    budgets = {(one.steps, one.pictures_per_step, one.pictures) for one in trained}
    shapes = {(len(one.prompts), tuple(one.prompts[0])) for one in results}
    if len(budgets) > 1 or len(shapes) > 1:
        raise UserError(
            "the arms' files are of different trainings or prompts; delete the folder arms, and run the command again"
        )


def _values(of_arm: Sequence[Results], name: str) -> Array:
    """A measure ``[seeds, prompts]``, NaN where it is not known."""
    return np.array([[prompt[name] for prompt in one.prompts] for one in of_arm], dtype=np.float64)


def _figures(
    label: str, of_arm: Sequence[Results], values: Mapping[str, Mapping[str, Array]], names: Sequence[str]
) -> ArmFigures:
    measures: dict[str, Measure] = {}
    for name in names:
        ours = values[label][name]
        differences: dict[str, Estimate | None] = {}
        for reference in COMPARED_WITH:
            if reference in values and reference != label:
                differences[reference] = _estimate(_mean(ours) - _mean(values[reference][name]))
        by_seed = tuple(_known(float(mean)) for mean in _mean(ours.T))
        measures[name] = Measure(_estimate(_mean(ours)), by_seed, differences)
    losses = [one.losses for one in of_arm if one.losses]
    return ArmFigures(
        pictures=of_arm[0].pictures,
        steps=of_arm[0].steps,
        pictures_per_step=of_arm[0].pictures_per_step,
        seconds=float(np.mean([one.seconds for one in of_arm])),
        first_loss=_mean_loss([of_seed[: _tenth(of_seed)] for of_seed in losses]),
        last_loss=_mean_loss([of_seed[-_tenth(of_seed) :] for of_seed in losses]),
        measures=measures,
    )


def _tenth(losses: Sequence[float]) -> int:
    return max(1, len(losses) // 10)


def _mean_loss(losses: Sequence[Sequence[float]]) -> float | None:
    return float(np.mean([np.mean(part) for part in losses])) if losses else None


def _mean(values: Array) -> Array:
    """``[N, M]`` → ``[M]``: the means over what is known, NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing
        means: Array = np.nanmean(values, axis=0)
    return means


def _estimate(values: Array) -> Estimate | None:
    """The mean of the known values ``[prompts]`` with its interval."""
    known = values[~np.isnan(values)]
    return estimates(known[None])[0] if len(known) else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
