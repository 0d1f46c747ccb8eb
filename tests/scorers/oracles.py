"""Scores of tiny checkpoints by the library's own processors and forward passes, and our scorers for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.smolvlm import processing_smolvlm

from noisesmith.pipeline.config import QUESTION
from noisesmith.pipeline.scorers.chat import ChatScorer
from noisesmith.pipeline.scorers.clip import Clip, Siglip, Siglip2
from noisesmith.pipeline.scorers.gemma3 import Gemma3
from noisesmith.pipeline.scorers.internvl import InternVL
from noisesmith.pipeline.scorers.llava_next import LlavaNext
from noisesmith.pipeline.scorers.llava_onevision import LlavaOnevision
from noisesmith.pipeline.scorers.paligemma import PaliGemma
from noisesmith.pipeline.scorers.qwen_vl import Qwen35, QwenVL
from noisesmith.pipeline.scorers.smolvlm import SmolVLM
from tests import tiny_families, tiny_vlms

Oracle = Callable[[Path, Any, str, Image.Image, str], float]
Reader = Callable[[Path, str, str, str, Image.Image], tuple[Any, Any]]


@dataclass(frozen=True)
class Family:
    """A tiny checkpoint, our scorer for it, and P by the library's own processor and forward.

    Attributes:
        read: of a vision-language model: what its processor makes of a question, the start of an answer and an image,
            and its tokenizer.
    """

    build: Callable[[Path], Path]
    scorer: Any
    oracle: Oracle
    read: Reader | None = None


def _vision_language(
    build: Callable[[Path], Path], scorer: Any, read: Reader, words: tuple[str, str] = ("Yes", "No")
) -> Family:
    def score(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
        inputs, tokenizer = read(folder, type(model).__name__, QUESTION.replace("{prompt}", prompt), "", image)
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        yes, no = (tokenizer.convert_tokens_to_ids(word) for word in words)
        return float(logits.softmax(-1)[yes] if readout == "yes" else logits[[yes, no]].softmax(-1)[0])

    return Family(build, scorer, score, read)


def spoken(family: Family, folder: Path, model: Any, question: str, answer: str, image: Image.Image) -> torch.Tensor:
    """Log-probabilities of the tokens of an answer to a question about an image."""
    assert family.read is not None
    inputs, tokenizer = family.read(folder, type(model).__name__, question, answer, image)
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return torch.stack([logits[place - len(ids) - 1].log_softmax(-1)[token] for place, token in enumerate(ids)])


def _conversation(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def _whole(folder: Path, class_name: str, question: str, answer: str, image: Image.Image) -> tuple[Any, Any]:
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(_conversation(question), add_generation_prompt=True)
    return processor(text=f"{text} {answer}".strip(), images=image, return_tensors="pt"), processor.tokenizer


def _without_video(*, thinking: bool | None = None, **settings: Any) -> Reader:
    """By the family's processor without its video half, whose class cannot be imported without torchvision.

    Args:
        thinking: the template's ``enable_thinking``; left out where ``None``.
        settings: of the processor, as its file says them for the tiny checkpoint.
    """

    def read(folder: Path, class_name: str, question: str, answer: str, image: Image.Image) -> tuple[Any, Any]:
        name = class_name.replace("ForConditionalGeneration", "Processor")
        processor_class = getattr(transformers, name, transformers.Qwen3VLProcessor)  # that of Qwen3.5, too
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
            patch.setattr(processing_smolvlm, "num2words", str)  # a package that names the frames of videos
            processor = processor_class(AutoImageProcessor.from_pretrained(folder), tokenizer, None, **settings)
        options = {} if thinking is None else {"enable_thinking": thinking}
        text = tokenizer.apply_chat_template(
            _conversation(question), tokenize=False, add_generation_prompt=True, **options
        )
        inputs = processor(text=text + answer, images=image, return_tensors="pt")
        for name in ("rows", "cols"):
            inputs.pop(name, None)
        return inputs, tokenizer

    return read


def _paligemma(folder: Path, class_name: str, question: str, answer: str, image: Image.Image) -> tuple[Any, Any]:
    """The answer is a suffix, as in training, without the end token that it has there."""
    processor = AutoProcessor.from_pretrained(folder)
    suffix = {"suffix": answer} if answer else {}
    inputs = processor(text=f"<image>answer en {question}", images=image, return_tensors="pt", **suffix)
    inputs.pop("labels")
    if answer:
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            inputs[name] = inputs[name][:, :-1]
    return inputs, processor.tokenizer


def _clip(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
    inputs = AutoProcessor.from_pretrained(folder)(text=prompt, images=image, return_tensors="pt")
    with torch.no_grad():
        cosine = model(**inputs).logits_per_image / model.logit_scale.exp()
    return float((1 + cosine) / 2)


def _siglip(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
    processor = AutoProcessor.from_pretrained(folder)
    tokens = processor.tokenizer(prompt, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        logit = model(**tokens, **processor.image_processor(image, return_tensors="pt")).logits_per_image
    return float(logit.sigmoid())


ONEVISION: dict[str, Any] = {
    "num_image_tokens": 16,
    "vision_feature_select_strategy": "full",
    "vision_aspect_ratio": "anyres_max_3",
}
FAMILIES = {
    "llava_next": _vision_language(tiny_families.llava_next, LlavaNext, _whole),
    "llava_onevision": _vision_language(tiny_vlms.llava_onevision, LlavaOnevision, _without_video(**ONEVISION)),
    "qwen2_vl": _vision_language(tiny_families.qwen2_vl, QwenVL, _without_video()),
    "qwen2_5_vl": _vision_language(tiny_families.qwen2_5_vl, QwenVL, _without_video()),
    "qwen3_vl": _vision_language(tiny_families.qwen3_vl, QwenVL, _without_video()),
    "qwen3_5": _vision_language(tiny_families.qwen3_5, Qwen35, _without_video(thinking=False)),
    "internvl": _vision_language(tiny_vlms.internvl, InternVL, _without_video(image_seq_length=4)),
    "smolvlm": _vision_language(tiny_vlms.smolvlm, SmolVLM, _without_video(image_seq_len=4)),
    "gemma3": _vision_language(tiny_vlms.gemma3, Gemma3, _whole),
    "paligemma2": _vision_language(tiny_vlms.paligemma2, PaliGemma, _paligemma, ("yes", "no")),
    "clip": Family(tiny_families.clip, Clip, _clip),
    "siglip": Family(tiny_families.siglip, Siglip, _siglip),
    "siglip2": Family(tiny_families.siglip2, Siglip2, _siglip),
}
CHAT = [name for name, family in FAMILIES.items() if issubclass(family.scorer, ChatScorer)]
