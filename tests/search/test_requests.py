"""What a search method is told of each row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from noisesmith.pipeline.config import InitNoConfig
from noisesmith.pipeline.generators import Generator
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.search.propose import requests_of
from noisesmith.pipeline.search.tasks import GenerateTask
from noisesmith.pipeline.text.control_tokens import plain
from tests import tiny

KEY = NoiseKey(0, "row", 0)
LONG = "a cat " + "under a " * 8 + "car"


def _generator() -> Generator:
    """Its text encoder reads 16 tokens."""
    tokenizer: Any = tiny.tokenizer(16, template=True)
    stub = SimpleNamespace(pipe=SimpleNamespace(tokenizer=tokenizer), plain=lambda text: plain(text, tokenizer))
    return cast(Generator, stub)


def _subjects(prompt: str, *listed: str) -> list[str]:
    (request,) = requests_of(InitNoConfig(), _generator(), [GenerateTask(prompt, listed, KEY, 2)])
    return list(request.subjects)


def test_listed_subjects_are_handed_on_as_they_are_even_where_the_encoder_cannot_read_them() -> None:
    assert _subjects(LONG, "car") == ["car"]


def test_found_subjects_are_those_that_the_encoder_reads() -> None:
    assert _subjects("a cat and a car") == ["cat", "car"]
    assert _subjects(LONG) == ["cat"]


def test_a_prompt_may_have_no_subject() -> None:
    assert _subjects("and with under") == []
