"""Adapters to vision-language models: (z_0 or image, prompt) in, score and ∂s/∂z_0 out."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import torch

from pipeline.config import JudgeConfig, ScorerConfig
from pipeline.errors import UserError
from pipeline.models import ModelSource, locate
from pipeline.scorers.base import ImageScorer, Judge, Scores
from pipeline.scorers.vlm import VisionLanguageModel

__all__ = ["ImageScorer", "Judge", "Scores", "find_judge", "find_scorer", "load_judge", "load_scorer"]

FAMILIES = {  # the class a checkpoint names → ours, imported when one is loaded
    "CLIPT5ForConditionalGeneration": "pipeline.scorers.clip_flant5:ClipFlanT5",
    "InstructBlipForConditionalGeneration": "pipeline.scorers.instructblip:InstructBlip",
    "LlavaForConditionalGeneration": "pipeline.scorers.llava:Llava",
}
DETECTOR = "Judge"


def find_scorer(config: ScorerConfig) -> ModelSource:
    """Check that the steering model is there and of a supported class, and a local folder's weights readable.

    Raises:
        UserError: it is not; the message names the field.
    """
    source = locate(config.model, config.revision, "scorers.model", "config.json")
    return _supported(replace(source, allow_pickle=config.allow_pickle), tuple(FAMILIES))


def find_judge(config: JudgeConfig, scorers: ScorerConfig) -> ModelSource:
    """As :func:`find_scorer`, for a judge; the embedded detector counts too."""
    source = locate(config.model, config.revision, f"judges.{config.name}.model", "config.json")
    return _supported(replace(source, allow_pickle=scorers.allow_pickle), (*FAMILIES, DETECTOR))


def load_scorer(config: ScorerConfig, device: str) -> ImageScorer:
    """Load the steering model onto ``device``.

    Raises:
        UserError: it cannot be loaded.
    """
    return _load(find_scorer(config), config, config.readout, device)


def load_judge(config: JudgeConfig, scorers: ScorerConfig, device: str) -> Judge:
    """Load a judge.

    A vision-language judge is asked the steering model's question and read as it is; but never by ``reference``, whose
    faults belong to the steering of the official implementation: then a judge is read by ``yes``.
    """
    source = find_judge(config, scorers)
    if source.class_name == DETECTOR:
        from pipeline.scorers.detector import Detector

        return Detector(source, device)
    return _load(source, scorers, "yes" if scorers.readout == "reference" else scorers.readout, device)


def _load(source: ModelSource, config: ScorerConfig, readout: str, device: str) -> VisionLanguageModel:
    module, name = FAMILIES[source.class_name].split(":")
    family: type[VisionLanguageModel] = getattr(import_module(module), name)
    return family(source, getattr(torch, config.dtype), device, question=config.question, readout=readout)


def _supported(source: ModelSource, families: tuple[str, ...]) -> ModelSource:
    if source.class_name not in families:
        raise UserError(
            f"{source.field}: {source.id!r} is a {source.class_name}, which is not supported; "
            f"use one of {', '.join(families)}"
        )
    if source.local and source.class_name != DETECTOR:
        source.has_safetensors()
    return source
