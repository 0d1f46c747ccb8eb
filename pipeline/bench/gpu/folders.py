"""Architectures as model folders: JSON files, a tokenizer, and files of weights that hold nothing but zeros."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Core
from tokenizers import models, pre_tokenizers, processors

from noisesmith.pipeline.bench.gpu.architectures import Part, PipelineArchitecture, ScorerArchitecture
from noisesmith.pipeline.models.libraries import Json, Tokenizer

CLIP_LENGTH, T5_LENGTH = 77, 2048  # tokens that the encoders' tokenizers are stored with
_SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
_ANSWERS = ("Yes", "No", "yes", "no")
_IMAGE = "<image>"


def words_tokenizer(length: int, image_token: int | None = None) -> Any:
    """A tokenizer of ``transformers`` that makes one token of each word and of each punctuation mark.

    It knows the answers only. Any other word is the unknown token, whose work for a model is that of a known one.

    Args:
        length: the most tokens of a text.
        image_token: the id of ``<image>`` in a model that reads images, whose texts then have no end token.
    """
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *_ANSWERS))}
    if image_token is not None:
        vocabulary[_IMAGE] = image_token
    core = Core(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    ends = [(word, vocabulary[word]) for word in ("<s>", "</s>")]
    form = "<s> $A </s>" if image_token is None else "<s> $A"
    core.post_processor = processors.TemplateProcessing(single=form, special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[] if image_token is None else [_IMAGE],
        model_max_length=length,
    )


def write_pipeline(
    architecture: PipelineArchitecture, folder: Path, tokenizer: Callable[[int], Tokenizer] = words_tokenizer
) -> None:
    """Write the JSON files of a pipeline and its tokenizers, and empty files in place of its weights.

    Args:
        tokenizer: makes that of a text encoder, from the most tokens of a prompt.
    """
    scheduler = architecture.scheduler
    index: Json = {"_class_name": architecture.class_name, "scheduler": ["diffusers", scheduler["_class_name"]]}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    for name, part in architecture.parts.items():
        write_json(folder / name / "config.json", _defaults(part) | part.config)
        (folder / name / weights_name(part.library)).touch()
        index[name] = [part.library, part.class_name]
        if name.startswith("text_encoder"):
            length = CLIP_LENGTH if "CLIP" in part.class_name else T5_LENGTH
            stored: Any = tokenizer(length)
            place = name.replace("text_encoder", "tokenizer")
            stored.save_pretrained(folder / place)
            index[place] = ["transformers", "PreTrainedTokenizerFast"]
    write_json(folder / "model_index.json", index)


def write_scorer(architecture: ScorerArchitecture, folder: Path) -> None:
    """Write the JSON files of a vision-language model, and an empty file in place of its weights."""
    config = architecture.config
    if architecture.tower is not None:
        tower = folder / "vision-tower"
        write_json(tower / "config.json", architecture.tower)
        write_json(tower / "preprocessor_config.json", architecture.image_processor)
        config = config | {"mm_vision_tower": str(tower)}
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", architecture.image_processor)
    (folder / weights_name("transformers")).touch()


def write_reader(architecture: ScorerArchitecture, folder: Path) -> None:
    """Write the tokenizer of a vision-language model, and what its processor needs next to it."""
    image_token = architecture.config.get("image_token_index")
    length = architecture.config.get("text_config", {}).get("max_position_embeddings", T5_LENGTH)
    words_tokenizer(length, image_token).save_pretrained(folder)
    if image_token is not None:
        write_json(folder / "processor_config.json", {"processor_class": "LlavaProcessor", "image_token": _IMAGE})


def weights_name(library: str) -> str:
    """The file in which a library stores the weights of one model."""
    return "diffusion_pytorch_model.safetensors" if library == "diffusers" else "model.safetensors"


def write_json(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _defaults(part: Part) -> Json:
    """What a class of ``diffusers`` writes into a config besides what it is given."""
    if part.library != "diffusers":
        return {}
    import diffusers

    parameters = inspect.signature(getattr(diffusers, part.class_name).__init__).parameters
    empty = inspect.Parameter.empty
    return {name: one.default for name, one in parameters.items() if one.default is not empty}
