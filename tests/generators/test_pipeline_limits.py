"""How much of a prompt the newer families read, against what their pipelines make of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators import find_generator, load_generator, read_text_limits
from tests.tiny_pipelines import PIPELINES

WORDS = ("a red cat above a blue dog on a car with a bowl under a cat and a red bowl below a dog " * 3).split()
READ = 30  # tokens
LIMITS = {  # by default, with what the pipeline puts before a prompt
    "flux-schnell": {"text_encoder": 16, "text_encoder_2": 512},
    "z-image": {"text_encoder": 512},
    "qwen-image": {"text_encoder": 512 + 34},
    "pixart-sigma": {"text_encoder": 300},
    "lumina2": {"text_encoder": 256},
    "chroma": {"text_encoder": 512},
    "flux2-klein": {"text_encoder": 512},
    "flux2-dev": {"text_encoder": 512},
}
PREFIXED = {"lumina2": 60, "flux2-dev": 60}  # a longer text stands before the prompt there


def _config(name: str, folders: Mapping[str, Path], **options: Any) -> GeneratorConfig:
    fields = {"model": str(folders[name]), "steps": 3, "height": 64, "width": 32, **PIPELINES[name].options}
    return GeneratorConfig.model_validate(fields | options)


@pytest.mark.parametrize("name", LIMITS)
def test_every_text_encoder_names_the_length_that_the_library_gives_it(name: str, folders: Mapping[str, Path]) -> None:
    limits = read_text_limits(find_generator(_config(name, folders)))
    assert {limit.reader: limit.tokens for limit in limits} == LIMITS[name]


@pytest.mark.parametrize("name", [*LIMITS, "sana"])
def test_the_words_that_are_counted_as_cut_are_those_that_change_nothing(
    name: str, folders: Mapping[str, Path]
) -> None:
    """The embedding of a prompt is that of its beginning, up to the last token that is read."""
    length = PREFIXED.get(name, READ)
    generator = load_generator(find_generator(_config(name, folders, max_sequence_length=length)), "cpu")
    (cut,) = generator.tokens_cut([" ".join(WORDS)])
    assert 0 < cut < len(WORDS)
    kept = WORDS[: len(WORDS) - cut]  # one token per word here
    assert generator.tokens_cut([" ".join(kept), " ".join([*kept, "dog"])]) == [0, 1]
    whole, read, less = (_embed(generator.pipe, words, length) for words in (WORDS, kept, kept[:-1]))
    assert torch.equal(whole, read)
    assert whole.shape != less.shape or not torch.equal(whole, less)


def _embed(pipe: Any, words: list[str], length: int) -> torch.Tensor:
    """What the encoder with the longest text makes of a prompt."""
    options = {
        "prompt": " ".join(words), "prompt_2": None, "device": "cpu", "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False, "max_sequence_length": length,
    }  # fmt: skip
    if hasattr(pipe, "_get_gemma_prompt_embeds") and "complex_human_instruction" in _parameters(pipe.encode_prompt):
        options["complex_human_instruction"] = _parameters(pipe.__call__)["complex_human_instruction"].default
    taken = _parameters(pipe.encode_prompt)
    with torch.no_grad():
        embedded = pipe.encode_prompt(**{name: value for name, value in options.items() if name in taken})[0]
    return embedded[0]


def _parameters(method: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(method).parameters
