"""Scores of tiny checkpoints by the library's own processors and forward passes, and our scorers for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.smolvlm import processing_smolvlm

from noisesmith.pipeline.config import QUESTION
from noisesmith.pipeline.scorers.chat import ChatScorer
from noisesmith.pipeline.scorers.clip import Clip, Siglip, Siglip2
from noisesmith.pipeline.scorers.gemma3 import Gemma3
from noisesmith.pipeline.scorers.hpsv2 import HpsV2
from noisesmith.pipeline.scorers.hpsv3 import HpsV3
from noisesmith.pipeline.scorers.image_reward import ImageReward
from noisesmith.pipeline.scorers.instructions import HPSV3
from noisesmith.pipeline.scorers.internvl import InternVL
from noisesmith.pipeline.scorers.llava_next import LlavaNext
from noisesmith.pipeline.scorers.llava_onevision import LlavaOnevision
from noisesmith.pipeline.scorers.paligemma import PaliGemma
from noisesmith.pipeline.scorers.qwen_vl import Qwen35, QwenVL
from noisesmith.pipeline.scorers.smolvlm import SmolVLM
from tests import tiny_families, tiny_preferences, tiny_vlms

Oracle = Callable[[Path, Any, str, Image.Image, str], float]
Reader = Callable[..., tuple[Any, Any]]  # of folder, class, question, answer, image


@dataclass(frozen=True)
class Family:
    """A tiny checkpoint, our scorer for it, and P by the library's own processor and forward.

    Attributes:
        read: of a vision-language model: what its processor makes of a question, the start of an answer and an image,
            and its tokenizer.
        load: the network of another implementation, for a class that the library has not.
        special: the control tokens of its tokenizer, where they are of its own.
    """

    build: Callable[[Path], Path]
    scorer: Any
    oracle: Oracle
    read: Reader | None = None
    load: Callable[[Path], Any] | None = None
    special: tuple[str, ...] = ()

    def reference(self, folder: Path, class_name: str) -> Any:
        """The network that the oracle asks."""
        if self.load is not None:
            return self.load(folder)
        return getattr(transformers, class_name).from_pretrained(folder).eval()


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
    inputs, asked = (family.read(folder, type(model).__name__, question, said, image)[0] for said in (answer, ""))
    ids = inputs["input_ids"][0, asked["input_ids"].shape[1] :].tolist()
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return torch.stack([logits[place - len(ids) - 1].log_softmax(-1)[token] for place, token in enumerate(ids)])


def _conversation(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def _whole(folder: Path, class_name: str, question: str, answer: str, image: Image.Image) -> tuple[Any, Any]:
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(_conversation(question), add_generation_prompt=True)
    return processor(text=f"{text} {answer}".strip(), images=image, return_tensors="pt"), processor.tokenizer


def without_video(*, thinking: bool | None = None, before: str = "", **settings: Any) -> Reader:
    """By the family's processor without its video half, whose class cannot be imported without torchvision.

    Args:
        thinking: the template's ``enable_thinking``; left out where ``None``.
        before: stands between the template's question and an answer.
        settings: of the processor, as its file says them for the tiny checkpoint.
    """

    def read(
        folder: Path, class_name: str, question: str, answer: str, image: Image.Image, added: str = "", **more: Any
    ) -> tuple[Any, Any]:
        name = class_name.replace("ForConditionalGeneration", "Processor")
        processor_class = getattr(transformers, name, transformers.Qwen3VLProcessor)  # that of Qwen3.5, too
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens([added] if added else [], special_tokens=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
            patch.setattr(processing_smolvlm, "num2words", str)  # a package that names the frames of videos
            processor = processor_class(AutoImageProcessor.from_pretrained(folder), tokenizer, None, **settings)
        options = {} if thinking is None else {"enable_thinking": thinking}
        text = tokenizer.apply_chat_template(
            _conversation(question), tokenize=False, add_generation_prompt=True, **options
        )
        said = before + answer if answer else ""
        inputs = processor(text=text + said, images=image, return_tensors="pt", **more)
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


def _open_clip(folder: Path) -> Any:
    weights = load_file(folder / "HPS_v2.1_compressed.safetensors")
    network = tiny_preferences.OpenClip(len(weights["token_embedding.weight"]))
    network.load_state_dict(weights)
    return network


def _reward_network(folder: Path) -> Any:
    weights = load_file(folder / "ImageReward.safetensors")
    network = tiny_preferences.Reward().eval()
    network.load_state_dict({name: value for name, value in weights.items() if "position_ids" not in name})
    return network


def _rating_network(folder: Path) -> Any:
    """The library's Qwen2-VL with the weights under their published names, and the network that rates."""
    weights = load_file(folder / "HPSv3.safetensors")

    def part(name: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}

    config = transformers.Qwen2VLConfig.from_pretrained(folder / "base")
    config.text_config.vocab_size = len(weights["model.embed_tokens.weight"])
    network = transformers.Qwen2VLModel(config).eval()
    network.language_model.load_state_dict(part("model."))
    network.visual.load_state_dict(part("visual."))
    network.rating = tiny_preferences.rating_head(config.text_config.hidden_size)
    network.rating.load_state_dict(part("rm_head."))
    return network


def _hpsv3(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
    """As its authors score: the library's processor, an image of 256 tokens, positions that count up."""
    inputs, tokenizer = without_video()(
        folder / "base", "Qwen2VLForConditionalGeneration", HPSV3.replace("{prompt}", prompt), "", image,
        size=dict.fromkeys(("shortest_edge", "longest_edge"), 256 * 8 * 8), added="<|Reward|>",
    )  # fmt: skip
    places = inputs.pop("mm_token_type_ids")
    with torch.no_grad():
        hidden = model(**inputs, position_ids=torch.arange(places.shape[1]).expand(3, 1, -1)).last_hidden_state
        reward = hidden[inputs["input_ids"] == tokenizer.convert_tokens_to_ids("<|Reward|>")]
        mean, _ = model.rating(reward)[0]
    return float((mean - 10.43).sigmoid())


def _standardised(levels: torch.Tensor) -> torch.Tensor:
    """The centre of ``[3, h, w]`` in [0, 1] as torchvision crops and normalises it."""
    edge = tiny_preferences.STANDARD["image_size"]
    top, left = (round((side - edge) / 2) for side in levels.shape[1:])
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((levels[:, top : top + edge, left : left + edge] - mean) / std)[None]


def _short_edge(image: Image.Image) -> tuple[int, int]:
    """Width and height where the short edge is the model's."""
    edge, short = tiny_preferences.STANDARD["image_size"], min(image.size)
    return int(edge * image.width / short), int(edge * image.height / short)


def _levels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def _hpsv2(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
    """As its authors score: a tensor resized by torch, a text padded with zeros."""
    width, height = _short_edge(image)
    resized = torch.nn.functional.interpolate(
        _levels(image)[None], (height, width), mode="bicubic", align_corners=False, antialias=True
    )
    text = [0] * tiny_preferences.LENGTH
    ids = tiny_preferences.clip_tokenizer()(prompt).input_ids
    text[: len(ids)] = ids
    with torch.no_grad():
        cosine = model(torch.tensor([text]), _standardised(resized[0]))
    return float((1 + cosine) / 2)


def _image_reward(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
    """As its authors score: an image resized by Pillow, a text padded to 35 tokens, the reward standardised."""
    pixels = _standardised(_levels(image.resize(_short_edge(image), Image.Resampling.BICUBIC)))
    tokens = tiny_preferences.bert_tokenizer()(
        prompt, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    with torch.no_grad():
        reward = (model(tokens.input_ids, tokens.attention_mask, pixels) - 0.16717362830052426) / 1.0333394966054072
    return float(reward.sigmoid())


ONEVISION: dict[str, Any] = {
    "num_image_tokens": 16,
    "vision_feature_select_strategy": "full",
    "vision_aspect_ratio": "anyres_max_3",
}
FAMILIES = {
    "llava_next": _vision_language(tiny_families.llava_next, LlavaNext, _whole),
    "llava_onevision": _vision_language(tiny_vlms.llava_onevision, LlavaOnevision, without_video(**ONEVISION)),
    "qwen2_vl": _vision_language(tiny_families.qwen2_vl, QwenVL, without_video()),
    "qwen2_5_vl": _vision_language(tiny_families.qwen2_5_vl, QwenVL, without_video()),
    "qwen3_vl": _vision_language(tiny_families.qwen3_vl, QwenVL, without_video()),
    "qwen3_5": _vision_language(tiny_families.qwen3_5, Qwen35, without_video(thinking=False)),
    "internvl": _vision_language(tiny_vlms.internvl, InternVL, without_video(image_seq_length=4)),
    "smolvlm": replace(
        _vision_language(tiny_vlms.smolvlm, SmolVLM, without_video(image_seq_len=4, before=" "), ("ĠYes", "ĠNo")),
        special=("<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<image>", "<global-img>"),
    ),
    "gemma3": _vision_language(tiny_vlms.gemma3, Gemma3, _whole),
    "paligemma2": _vision_language(tiny_vlms.paligemma2, PaliGemma, _paligemma, ("yes", "no")),
    "clip": Family(tiny_families.clip, Clip, _clip),
    "siglip": Family(tiny_families.siglip, Siglip, _siglip),
    "siglip2": Family(tiny_families.siglip2, Siglip2, _siglip),
    "hpsv3": Family(
        tiny_families.hpsv3, HpsV3, _hpsv3, load=_rating_network, special=(*tiny_families.QWEN_TOKENS, "<|Reward|>")
    ),
    "hpsv2": Family(
        tiny_preferences.hpsv2, HpsV2, _hpsv2, load=_open_clip, special=("<|startoftext|>", "<|endoftext|>")
    ),
    "image_reward": Family(
        tiny_preferences.image_reward, ImageReward, _image_reward, load=_reward_network,
        special=("[PAD]", "[CLS]", "[SEP]", "[MASK]"),
    ),
}  # fmt: skip
CHAT = [name for name, family in FAMILIES.items() if family.read and issubclass(family.scorer, ChatScorer)]
