"""How many tokens of a question or a caption each scorer family reads, by its files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from noisesmith.pipeline.config import ScorerConfig
from noisesmith.pipeline.scorers import find_scorer, load_scorer
from noisesmith.pipeline.scorers.chat import ChatScorer
from tests import tiny, tiny_families, tiny_preferences, tiny_scorers, tiny_vlms

Build = Callable[[Path], Path]

# The parts that read text, the tokens that each reads (without those of the image), and whether the rest is cut off.
FAMILIES: dict[str, tuple[Build, list[tuple[str, int | None, bool]]]] = {
    "llava": (tiny.llava, [("language model", 512 - 4, False)]),
    "llava_next": (tiny_families.llava_next, [("language model", 512 - 4 - 4 * 5, False)]),
    "qwen2_5_vl": (tiny_families.qwen2_5_vl, [("language model", 1024, False)]),
    "llava_onevision": (tiny_vlms.llava_onevision, [("language model", 1024 - 4 * 4 - 12 * (4 + 1), False)]),
    "internvl": (tiny_vlms.internvl, [("language model", 1024, False)]),
    "smolvlm": (tiny_vlms.smolvlm, [("language model", 1024, False)]),
    "gemma3": (tiny_vlms.gemma3, [("language model", 1024 - 4, False)]),
    "paligemma2": (tiny_vlms.paligemma2, [("language model", 1024 - 16, False)]),
    "clip": (tiny_families.clip, [("text model", 16, True)]),
    "siglip": (tiny_families.siglip, [("text model", 16, True)]),
    "hpsv2": (tiny_preferences.hpsv2, [("text model", 64, True)]),
    "image_reward": (tiny_preferences.image_reward, [("text encoder", 35, True)]),
    "clip_flant5": (tiny_scorers.clip_flant5, [("language model", None, False)]),
    "instructblip": (
        lambda folder: tiny_scorers.instructblip(folder, decoder_only=True),
        [("Q-Former", 64, True), ("language model", 2048 - 5, False)],
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scorer_says_what_it_reads(family: str, tmp_path: Path) -> None:
    build, expected = FAMILIES[family]
    found = find_scorer(ScorerConfig(model=str(build(tmp_path))))
    limits = found.family.text_limits(found)
    assert [(limit.reader, limit.tokens, limit.truncates) for limit in limits] == expected
    for limit in limits:
        long = " ".join(["cat dog"] * 2000)
        (excess,) = limit.excess([long])
        assert limit.excess(["a cat"]) == [0]
        assert (excess > 0) is (limit.tokens is not None)


@pytest.mark.parametrize("build", [tiny_families.llava_next, tiny_vlms.llava_onevision])
def test_the_image_takes_of_the_context_what_the_model_makes_of_it(build: Build, tmp_path: Path) -> None:
    found = find_scorer(ScorerConfig(model=str(build(tmp_path))))
    scorer = load_scorer(found, "cpu")
    assert isinstance(scorer, ChatScorer)
    counted = scorer.image_tokens(scorer.model.config)
    measured = []
    for size in ((32, 32), (37, 53), (64, 16), (16, 64), (48, 48)):
        vision = scorer.vision_inputs(torch.rand(1, 3, *size))
        measured.append(vision.image_text.count(scorer.image_token))
    assert max(measured) == counted
