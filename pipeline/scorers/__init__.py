"""Adapters to vision-language models: (z_0 or image, prompt) in, score and ∂s/∂z_0 out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pkgutil import resolve_name
from typing import cast

from noisesmith.pipeline.config import JudgeConfig, MemberConfig, RunConfig, ScorerConfig, is_url
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.models.locate import ModelSource, locate
from noisesmith.pipeline.models.quantization import Quantization, check_quantization, refuse_quantized
from noisesmith.pipeline.models.server import find_server
from noisesmith.pipeline.models.weights import weights_problem
from noisesmith.pipeline.scorers.base import ImageScorer, Judge, QuestionScorer, Scores
from noisesmith.pipeline.scorers.family import FoundScorer, ScorerFamily
from noisesmith.pipeline.scorers.instructions import UNIFIED_REWARD
from noisesmith.pipeline.scorers.openai_server import OpenAIServer
from noisesmith.pipeline.scorers.own import OwnScorer, find_class, is_class_name
from noisesmith.pipeline.scorers.panel import Answers, Asked, Group, Member, group_of, reads_overshoot
from noisesmith.pipeline.scorers.published import PUBLISHED
from noisesmith.pipeline.scorers.trial import Trial, try_judge, try_scorer

__all__ = [
    "Answers",
    "Asked",
    "FoundScorer",
    "Group",
    "ImageScorer",
    "Judge",
    "Member",
    "QuestionScorer",
    "Scores",
    "Trial",
    "find_judge",
    "find_scorer",
    "group_of",
    "load_group",
    "load_groups",
    "load_judge",
    "load_scorer",
    "reads_overshoot",
]

FAMILIES = {  # the class a checkpoint names → ours, imported when one is loaded
    "CLIPT5ForConditionalGeneration": "noisesmith.pipeline.scorers.clip_flant5:ClipFlanT5",
    "InstructBlipForConditionalGeneration": "noisesmith.pipeline.scorers.instructblip:InstructBlip",
    "LlavaForConditionalGeneration": "noisesmith.pipeline.scorers.llava:Llava",
    "LlavaNextForConditionalGeneration": "noisesmith.pipeline.scorers.llava_next:LlavaNext",
    "LlavaOnevisionForConditionalGeneration": "noisesmith.pipeline.scorers.llava_onevision:LlavaOnevision",
    "InternVLForConditionalGeneration": "noisesmith.pipeline.scorers.internvl:InternVL",
    "SmolVLMForConditionalGeneration": "noisesmith.pipeline.scorers.smolvlm:SmolVLM",
    "PaliGemmaForConditionalGeneration": "noisesmith.pipeline.scorers.paligemma:PaliGemma",
    "Gemma3ForConditionalGeneration": "noisesmith.pipeline.scorers.gemma3:Gemma3",
    "Qwen2VLForConditionalGeneration": "noisesmith.pipeline.scorers.qwen_vl:QwenVL",
    "Qwen2_5_VLForConditionalGeneration": "noisesmith.pipeline.scorers.qwen_vl:QwenVL",
    "Qwen3VLForConditionalGeneration": "noisesmith.pipeline.scorers.qwen_vl:QwenVL",
    "Qwen3_5ForConditionalGeneration": "noisesmith.pipeline.scorers.qwen_vl:Qwen35",
    "CLIPModel": "noisesmith.pipeline.scorers.clip:Clip",
    "SiglipModel": "noisesmith.pipeline.scorers.clip:Siglip",
    "Siglip2Model": "noisesmith.pipeline.scorers.clip:Siglip2",
    "HPSv3": "noisesmith.pipeline.scorers.hpsv3:HpsV3",
    "HPSv2": "noisesmith.pipeline.scorers.hpsv2:HpsV2",
    "ImageReward": "noisesmith.pipeline.scorers.image_reward:ImageReward",
}
REFERENCED = tuple(FAMILIES)[:3]  # those of the official implementation, whose readout means nothing for the others
DETECTOR = {"Judge": "noisesmith.pipeline.scorers.detector:Detector"}  # the embedded one, which can only judge


def find_scorer(config: ScorerConfig) -> FoundScorer:
    """Find a steering model: it is there, of a supported class or served, and a local folder's weights are readable.

    Raises:
        UserError: it is not, or has no such readout; the message names the field.
    """
    if is_class_name(config.model):
        return _checked(config, _find_own(config))
    source, family = _find(config, f"{config.section}.model", config, FAMILIES)
    if config.readout == "reference" and source.class_name not in REFERENCED:
        raise UserError(
            f"{config.section}.readout: reference is the official implementation's, which does not support "
            f"{source.class_name}; use yes or yes_no"
        )
    found = FoundScorer(source, family, config.question, config.readout, config.dtype, config.api_key_env)
    return _checked(config, found)


def _checked(config: ScorerConfig, found: FoundScorer) -> FoundScorer:
    """Add what the scorer is asked, if it can be.

    Raises:
        UserError: it has no such readout, or cannot be asked about parts of a prompt.
    """
    found = replace(found, asks=config.asks or "prompt", hint=config.hint or "", at_once=config.batch_size)
    if found.readout == "rating":
        found = replace(found, question=UNIFIED_REWARD)
    model = f"{found.source.id!r} is a {found.source.class_name}"
    if config.readout not in ("reference", *found.family.readouts):
        readouts = " or ".join(found.family.readouts)
        raise UserError(f"{config.section}.readout: {model}, which has no readout {config.readout}; use {readouts}")
    if found.asks == "questions" and not found.answers_questions:
        why = f"{found.source.id!r} has no method log_answers" if found.own_class else f"{model}, which answers none"
        raise UserError(f"{config.section}.asks: {why}; set asks: prompt, or use a vision-language model")
    return found


def find_judge(config: JudgeConfig, scorers: ScorerConfig) -> FoundScorer:
    """Find a judge: any scorer, or the embedded detector.

    A vision-language judge is asked the question of ``scorers``, the first of a panel, about the whole prompt, and read
    in the same way; but by ``yes`` where that is another readout than ``yes``, ``yes_no`` and ``rating``: the faults of
    ``reference`` belong to the steering of the official implementation. It may have the readout ``rating`` of its own.

    Raises:
        UserError: as :func:`find_scorer`.
    """
    field = f"judges.{config.name}.model"
    source, family = _find(config, field, scorers, FAMILIES | DETECTOR)
    if config.readout is not None and config.readout not in family.readouts:
        raise UserError(
            f"judges.{config.name}.readout: {source.id!r} is a {source.class_name}, which has no readout "
            f"{config.readout}; remove it"
        )
    rates = "rating" in family.readouts and "rating" in (config.readout, scorers.readout)
    if rates:
        return FoundScorer(source, family, UNIFIED_REWARD, "rating", scorers.dtype, config.api_key_env)
    readout = scorers.readout if scorers.readout == "yes_no" else "yes"
    return FoundScorer(source, family, scorers.question, readout, scorers.dtype, config.api_key_env)


def load_scorer(found: FoundScorer, device: str, trial: Trial | None = None) -> ImageScorer:
    """Load the steering model onto ``device``, and let it score the image of ``trial``.

    Raises:
        UserError: it cannot be loaded, or fails at that image.
    """
    scorer = cast(ImageScorer, found.family(found, device))
    if trial is not None:
        try_scorer(scorer, found, trial, device)
    return scorer


def load_group(
    configs: Sequence[MemberConfig], found: Sequence[FoundScorer], combine: str | None, device: str, trial: Trial
) -> Group:
    """Load the scorers of one group onto ``device``, and let each score the image of ``trial``.

    Raises:
        UserError: one cannot be loaded, or fails at that image.
    """
    scorers = []
    for config, one in zip(configs, found, strict=True):
        tried = replace(trial, gradient=trial.gradient and config.gradient)
        scorers.append(load_scorer(one, device, tried))
    return group_of(configs, scorers, combine)


def load_groups(config: RunConfig, found: Sequence[FoundScorer], device: str, trial: Trial) -> tuple[Group, ...]:
    """Load the scorers of a config onto one device, in its groups; as :func:`load_group`."""
    rest = iter(found)
    groups = []
    for configs in config.groups:
        groups.append(load_group(configs, list(islice(rest, len(configs))), config.combine, device, trial))
    return tuple(groups)


def load_judge(found: FoundScorer, device: str, trial: Trial | None = None) -> Judge:
    """Load a judge onto ``device``, and let it look at the image of ``trial``.

    Raises:
        UserError: it cannot be loaded, or fails at that image.
    """
    judge = cast(Judge, found.family(found, device))
    if trial is not None:
        try_judge(judge, found, trial)
    return judge


def _find_own(config: ScorerConfig) -> FoundScorer:
    field = f"{config.section}.model"
    if config.quantization is not None:
        raise UserError(
            f"{config.section}.quantization: {config.model!r} is a class of your own, which loads its model; remove it"
        )
    own_class = find_class(config, field)
    source = ModelSource(config.model, config.model, None, config.model, field)
    return FoundScorer(source, OwnScorer, config.question, config.readout, config.dtype, own_class=own_class)


def _find(
    config: ScorerConfig | JudgeConfig, field: str, scorers: ScorerConfig, families: dict[str, str]
) -> tuple[ModelSource, type[ScorerFamily]]:
    """Find the model of a scorer, or of a judge next to ``scorers``."""
    if is_url(config.model):
        return find_server(config.model, config.server_model, config.api_key_env, field), OpenAIServer
    found = locate(config.model, config.revision, field, "config.json", PUBLISHED)
    source = replace(found, allow_pickle=scorers.allow_pickle)
    if source.class_name not in families:
        raise UserError(
            f"{source.field}: {source.id!r} is a {source.class_name}, which is not supported; "
            f"use one of {', '.join(families)}"
        )
    if source.class_name not in DETECTOR:
        _check_weights(source)
    family: type[ScorerFamily] = resolve_name(families[source.class_name])
    if config.quantization is not None:
        source = _quantized(source, family, config.quantization, scorers)
    return source, family


def _quantized(source: ModelSource, family: type[ScorerFamily], method: str, scorers: ScorerConfig) -> ModelSource:
    """The source of a model that is quantised as it is loaded.

    Raises:
        UserError: it cannot be.
    """
    field = f"{source.field.removesuffix('.model')}.quantization"
    if not family.quantizes:
        raise UserError(f"{field}: {source.id!r} is a {source.class_name}, which is not quantised; remove it")
    check_quantization(method, field, scorers.dtype, scorers.num_gpus)
    refuse_quantized(source.read_json("config.json"), field, source.id)
    return replace(source, quantization=Quantization(method))


def _check_weights(source: ModelSource) -> None:
    """Refuse a stored model whose weights are pickled and not allowed, or incomplete.

    Raises:
        UserError: names the field and the file.
    """
    folder = source.stored_folder()
    if folder is None:
        return
    if source.weights:
        stored = [source.weights_file().name] if source.local else []
    else:
        name = "model.safetensors"
        if source.local and not source.has_safetensors():
            name = "pytorch_model.bin"
        stored = [file for file in (name, f"{name}.index.json") if (folder / file).is_file()]
    problem = weights_problem(folder, stored) if stored else None
    if problem:
        raise UserError(f"{source.field}: {source.id!r} is incomplete: {problem}; fetch the model again")
