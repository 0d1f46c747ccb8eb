"""How a scorer's own scores become the probabilities that they are taken for."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, model_validator

from noisesmith.pipeline.config.section import Section


class CalibrationConfig(Section):
    """An increasing map of scores, of one of two forms; it is applied to the scorer's log-odds, log s − log(1 − s)."""

    temperature: float | None = Field(
        None, gt=0, description="the log-odds are divided by this; above 1 makes an overconfident scorer more careful"
    )
    points: tuple[tuple[float, float], ...] | None = Field(
        None,
        description="pairs [score, probability], both rising; log-odds in between lie on a straight line, and beyond "
        "the ends on the last one",
    )

    @model_validator(mode="after")
    def _one_form(self) -> CalibrationConfig:
        if (self.temperature is None) == (self.points is None):
            raise ValueError("give either temperature or points")
        return self

    @model_validator(mode="after")
    def _points_rise(self) -> CalibrationConfig:
        points = self.points
        if points is None:
            return self
        if len(points) < 2:
            raise ValueError("points needs at least two pairs [score, probability]")
        if any(not 0 < value < 1 for point in points for value in point):
            raise ValueError("points must lie between 0 and 1, and not be 0 or 1")
        for before, after in pairwise(points):
            if not (before[0] < after[0] and before[1] < after[1]):
                raise ValueError(f"points must rise in both numbers, but {list(after)} follows {list(before)}")
        return self
