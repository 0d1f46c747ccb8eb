"""Adapters to vision-language models: (z_0 or image, prompt) in, score and ∂s/∂z_0 out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.config import JudgeConfig, ScorerConfig
from pipeline.errors import UserError
from pipeline.models import ModelSource, locate
from pipeline.scorers.base import ImageScorer, Judge, Scores

if TYPE_CHECKING:
    from pipeline.scorers.llava import Llava

__all__ = ["ImageScorer", "Judge", "Scores", "find_judge", "find_scorer", "load_judge", "load_scorer"]

FAMILIES = ("LlavaForConditionalGeneration",)
DETECTOR = "Judge"


def find_scorer(config: ScorerConfig) -> ModelSource:
    """Check that the steering model is there and of a supported class.

    Raises:
        UserError: it is not; the message names the field.
    """
    return _supported(locate(config.model, config.revision, "scorers.model", "config.json"), FAMILIES)


def find_judge(config: JudgeConfig) -> ModelSource:
    """As :func:`find_scorer`, for a judge; the embedded detector counts too."""
    source = locate(config.model, config.revision, f"judges.{config.name}.model", "config.json")
    return _supported(source, (*FAMILIES, DETECTOR))


def load_scorer(config: ScorerConfig, device: str) -> ImageScorer:
    """Load the steering model onto ``device``.

    Raises:
        UserError: it cannot be loaded.
    """
    return _llava(find_scorer(config), config, device)


def load_judge(config: JudgeConfig, scorers: ScorerConfig, device: str) -> Judge:
    """Load a judge; a vision-language judge is asked the steering model's question."""
    source = find_judge(config)
    if source.class_name == DETECTOR:
        from pipeline.scorers.detector import Detector

        return Detector(source, device)
    return _llava(source, scorers, device)


def _llava(source: ModelSource, config: ScorerConfig, device: str) -> Llava:
    from pipeline.scorers.llava import Llava

    dtype = getattr(torch, config.dtype)
    return Llava(source, dtype, device, question=config.question, readout=config.readout)


def _supported(source: ModelSource, families: tuple[str, ...]) -> ModelSource:
    if source.class_name not in families:
        raise UserError(
            f"{source.field}: {source.id!r} is a {source.class_name}, which is not supported; "
            f"use one of {', '.join(families)}"
        )
    return source
