"""How many tokens of a prompt each text encoder reads, against what the pipeline makes of the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators import find_generator, load_generator, read_text_limits

TEXT = "a red cat above a blue dog on a car with a bowl under a cat and a red bowl below a dog"
WORDS = TEXT.split()
LIMITS = {
    "sd1": {"text_encoder": 16},
    "sd2": {"text_encoder": 16},
    "sdxl": {"text_encoder": 16, "text_encoder_2": 16},
    "sd3": {"text_encoder": 16, "text_encoder_2": 16, "text_encoder_3": 256},
}


def _config(family: str, families: Mapping[str, Path], **options: Any) -> GeneratorConfig:
    sampler = {"scheduler": "flow_euler"} if family == "sd3" else {}
    return GeneratorConfig.model_validate({"model": str(families[family]), "steps": 2} | sampler | options)


@pytest.mark.parametrize("family", LIMITS)
def test_every_text_encoder_names_its_limit(family: str, families: Mapping[str, Path]) -> None:
    limits = read_text_limits(find_generator(_config(family, families)))
    assert {limit.reader: limit.tokens for limit in limits} == LIMITS[family]
    for limit in limits:
        ids = limit.tokenizer(TEXT).input_ids
        assert limit.excess([TEXT, "a cat"]) == [max(0, len(ids) - LIMITS[family][limit.reader]), 0]


def test_t5_reads_what_its_option_says_and_nothing_once_it_is_dropped(families: Mapping[str, Path]) -> None:
    short = read_text_limits(find_generator(_config("sd3", families, max_sequence_length=20)))
    assert short[-1].tokens == 20
    dropped = read_text_limits(find_generator(_config("sd3", families, drop_t5=True)))
    assert [limit.reader for limit in dropped] == ["text_encoder", "text_encoder_2"]


def test_the_words_that_are_counted_as_cut_are_those_that_change_nothing(families: Mapping[str, Path]) -> None:
    """The embedding of a prompt is that of its beginning, up to the last token that is read."""
    generator = load_generator(find_generator(_config("sd1", families)), "cpu")
    (cut,) = generator.tokens_cut([TEXT])
    kept = WORDS[: len(WORDS) - cut]  # one token per word here
    assert generator.tokens_cut([" ".join(kept), " ".join([*kept, "dog"])]) == [0, 1]
    whole, read, less = (_embed(generator.pipe, words) for words in (WORDS, kept, kept[:-1]))
    assert torch.equal(whole, read)
    assert not torch.equal(read, less)


def _embed(pipe: Any, words: list[str]) -> torch.Tensor:
    with torch.no_grad():
        embedding: torch.Tensor = pipe.encode_prompt(" ".join(words), "cpu", 1, False)[0]
    return embedding


def test_the_encoder_that_reads_most_decides(families: Mapping[str, Path]) -> None:
    counts = {}
    cases: dict[str, dict[str, Any]] = {
        "t5": {},
        "short t5": {"max_sequence_length": 20},
        "no t5": {"drop_t5": True},
    }
    for name, options in cases.items():
        generator = load_generator(find_generator(_config("sd3", families, **options)), "cpu")
        (counts[name],) = generator.tokens_cut([TEXT])
    clip = len(WORDS) + 2 - 16
    assert counts["t5"] == 0
    assert 0 < counts["short t5"] <= clip
    assert counts["no t5"] == clip
