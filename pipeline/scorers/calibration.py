"""Scores as probabilities: an increasing map of a scorer's log-odds, differentiable, in log space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisesmith.pipeline.config import CalibrationConfig
from noisesmith.pipeline.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor

NEARLY_ONE = -1e-7  # the log of the largest score whose log-odds are told from those of 1


def calibrate(log_scores: Tensor, calibration: CalibrationConfig) -> Tensor:
    """log p of log s ``[B]``, where p is the probability that the calibration gives the score s."""
    log_odds = _log_odds(log_scores)
    if calibration.points is not None:
        return torch.nn.functional.logsigmoid(_along_points(log_odds, calibration.points))
    return torch.nn.functional.logsigmoid(log_odds / (calibration.temperature or 1.0))


def _log_odds(log_scores: Tensor) -> Tensor:
    """log s − log(1 − s), exact for small s; a score of 1 counts as one just below."""
    below_one = log_scores.clamp(max=NEARLY_ONE)
    return below_one - torch.log(-torch.expm1(below_one))


def _along_points(log_odds: Tensor, points: tuple[tuple[float, float], ...]) -> Tensor:
    """The straight lines between the points' log-odds; the first and the last one go on beyond the ends."""
    knots = torch.logit(torch.tensor(points, dtype=torch.float64)).to(log_odds)
    scores = knots[:, 0].contiguous()
    probabilities = knots[:, 1]
    slopes = probabilities.diff() / scores.diff()
    line = torch.searchsorted(scores, log_odds.detach().contiguous()).sub(1).clamp(0, len(slopes) - 1)
    return probabilities[line] + slopes[line] * (log_odds - scores[line])
