"""Adapters to vision-language models: (z_0 or image, prompt) in, score and ∂s/∂z_0 out."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import torch

from noisesmith.pipeline.config import JudgeConfig, ScorerConfig, is_url
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.models.locate import ModelSource, locate
from noisesmith.pipeline.scorers.base import ImageScorer, Judge, Scores
from noisesmith.pipeline.scorers.openai_server import SERVER, OpenAIServer, find_server

__all__ = ["ImageScorer", "Judge", "Scores", "find_judge", "find_scorer", "load_judge", "load_scorer"]

FAMILIES = {  # the class a checkpoint names → ours, imported when one is loaded
    "CLIPT5ForConditionalGeneration": "noisesmith.pipeline.scorers.clip_flant5:ClipFlanT5",
    "InstructBlipForConditionalGeneration": "noisesmith.pipeline.scorers.instructblip:InstructBlip",
    "LlavaForConditionalGeneration": "noisesmith.pipeline.scorers.llava:Llava",
    "LlavaNextForConditionalGeneration": "noisesmith.pipeline.scorers.llava_next:LlavaNext",
    "Qwen2VLForConditionalGeneration": "noisesmith.pipeline.scorers.qwen_vl:QwenVL",
    "Qwen2_5_VLForConditionalGeneration": "noisesmith.pipeline.scorers.qwen_vl:QwenVL",
    "Qwen3VLForConditionalGeneration": "noisesmith.pipeline.scorers.qwen_vl:QwenVL",
    "CLIPModel": "noisesmith.pipeline.scorers.clip:Clip",
    "SiglipModel": "noisesmith.pipeline.scorers.clip:Siglip",
    "Siglip2Model": "noisesmith.pipeline.scorers.clip:Siglip2",
}
REFERENCED = tuple(FAMILIES)[:3]  # those of the official implementation, whose readout has no meaning elsewhere
DETECTOR = "Judge"


def find_scorer(config: ScorerConfig) -> ModelSource:
    """Check that the steering model is there, of a supported class or served, and a local folder's weights readable.

    Raises:
        UserError: it is not, or has no such readout; the message names the field.
    """
    source = _find(config, "scorers.model", config.allow_pickle, tuple(FAMILIES))
    if config.readout == "reference" and source.class_name not in REFERENCED:
        raise UserError(
            f"scorers.readout: reference is the official implementation's, which knows no {source.class_name}; "
            "use yes or yes_no"
        )
    return source


def find_judge(config: JudgeConfig, scorers: ScorerConfig) -> ModelSource:
    """As :func:`find_scorer`, for a judge; the embedded detector counts too."""
    return _find(config, f"judges.{config.name}.model", scorers.allow_pickle, (*FAMILIES, DETECTOR))


def load_scorer(config: ScorerConfig, device: str) -> ImageScorer:
    """Load the steering model onto ``device``.

    Raises:
        UserError: it cannot be loaded.
    """
    scorer: ImageScorer = _load(find_scorer(config), config, config.readout, config.api_key_env, device)
    return scorer


def load_judge(config: JudgeConfig, scorers: ScorerConfig, device: str) -> Judge:
    """Load a judge.

    A vision-language judge is asked the steering model's question and read as it is; but never by ``reference``, whose
    faults belong to the steering of the official implementation: then a judge is read by ``yes``.
    """
    source = find_judge(config, scorers)
    if source.class_name == DETECTOR:
        from noisesmith.pipeline.scorers.detector import Detector

        return Detector(source, device)
    readout = "yes" if scorers.readout == "reference" else scorers.readout
    judge: Judge = _load(source, scorers, readout, config.api_key_env, device)
    return judge


def _find(config: ScorerConfig | JudgeConfig, field: str, allow_pickle: bool, families: tuple[str, ...]) -> ModelSource:
    if is_url(config.model):
        return find_server(config.model, config.server_model, config.api_key_env, field)
    source = replace(locate(config.model, config.revision, field, "config.json"), allow_pickle=allow_pickle)
    if source.class_name not in families:
        raise UserError(
            f"{source.field}: {source.id!r} is a {source.class_name}, which is not supported; "
            f"use one of {', '.join(families)}"
        )
    if source.local and source.class_name != DETECTOR:
        source.has_safetensors()
    return source


def _load(source: ModelSource, config: ScorerConfig, readout: str, api_key_env: str | None, device: str) -> Any:
    if source.class_name == SERVER:
        return OpenAIServer(source, question=config.question, readout=readout, api_key_env=api_key_env)
    module, _, name = FAMILIES[source.class_name].partition(":")
    family = getattr(import_module(module), name)
    return family(source, getattr(torch, config.dtype), device, question=config.question, readout=readout)
