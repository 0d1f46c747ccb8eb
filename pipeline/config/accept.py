"""When a kept image counts as accepted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from noisesmith.pipeline.config.section import ColumnName, Section

Threshold = Annotated[float, Field(ge=0, le=1)]


class AcceptConfig(Section):
    """Thresholds that a kept image must reach, each of those that are given, to be accepted. They steer nothing."""

    score: Threshold | None = Field(None, description="least score of the scoring models")
    judges: dict[ColumnName, Threshold] = Field({}, description="least score of each judge, by its name")
    atoms: Threshold | None = Field(None, description="least score of the worst question about a part of the prompt")

    @model_validator(mode="after")
    def _has_a_threshold(self) -> AcceptConfig:
        if self.score is None and self.atoms is None and not self.judges:
            raise ValueError("give a threshold for score, judges or atoms, or remove the section")
        return self
