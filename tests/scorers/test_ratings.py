"""UnifiedReward's ratings as a readout, against the library's processor and forward, and finite differences."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from noisesmith.pipeline.config import GeneratorConfig, JudgeConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_decoder
from noisesmith.pipeline.scorers import find_judge, find_scorer, load_judge, load_scorer
from noisesmith.pipeline.scorers.instructions import HPSV3, UNIFIED_REWARD
from noisesmith.pipeline.scorers.rating import log_expected
from tests import tiny_families
from tests.scorers.checks import (
    assert_batch_equals_one_by_one,
    assert_gradient_matches_finite_differences,
    compute_in_float64,
    decoder_in_float64,
    small_latents,
)
from tests.scorers.oracles import without_video

PROMPTS = ["a cat and a red car", "a dog", "a blue bowl under a cat with a red dog on a car"]
BUILDERS = {
    "qwen2_5_vl": tiny_families.unified_reward_2_5,
    "qwen3_vl": tiny_families.unified_reward,
    "qwen3_5": tiny_families.qwen3_5,
}
PUBLISHED = {  # the texts of hpsv3 1.0.0 and of UnifiedReward's script, with {prompt} in the prompt's place
    HPSV3: "e61d58f3c7d3be656ccd024f5c0cd8c001cf9a2122305d52b59e60d94147e0f2",
    UNIFIED_REWARD: "75d52d3ae771f89b682db3b74cdaca1c7bde373a39162bc1c9dabd63cdc9b851",
}


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp("rating") / request.param)


def _load(folder: Path) -> Any:
    return load_scorer(find_scorer(ScorerConfig(model=str(folder), readout="rating")), "cpu")


def _pixels(height: int, width: int) -> torch.Tensor:
    levels = torch.randint(0, 256, (3, height, width, 3), generator=torch.Generator().manual_seed(height)).byte()
    levels[:, : height // 2] = torch.linspace(0, 255, width).byte()[None, None, :, None]
    return levels


def _expected(folder: Path, model: Any, prompt: str, image: Image.Image) -> float:
    """The mean of the five ratings by their probabilities after the beginning of the published answer."""
    thinking = False if "Qwen3_5" in type(model).__name__ else None
    question = UNIFIED_REWARD.replace("{prompt}", prompt)
    total = 0.0
    shares = []
    for rating in range(1, 6):
        inputs, _ = without_video(thinking=thinking)(
            folder, type(model).__name__, question, f"Alignment Score (1-5): {rating}", image
        )
        with torch.no_grad():
            logits = model(**inputs).logits[0, -2]
        shares.append(logits.softmax(-1)[inputs["input_ids"][0, -1]])
        total += rating * float(shares[-1])
    return total / float(sum(shares))


@pytest.mark.parametrize("text", PUBLISHED)
def test_a_model_is_asked_by_the_published_text_to_the_letter(text: str) -> None:
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED[text]


@pytest.mark.parametrize("size", [(37, 53), (100, 60)])
def test_a_rating_is_the_expected_one_by_the_librarys_forward(folder: Path, size: tuple[int, int]) -> None:
    scorer = _load(folder)
    model = getattr(transformers, find_scorer(ScorerConfig(model=str(folder))).source.class_name)
    model = model.from_pretrained(folder).eval()
    pixels = _pixels(*size)
    scores = scorer.log_scores(PROMPTS, pixels.permute(0, 3, 1, 2).float() / 255).exp()
    for place, prompt in enumerate(PROMPTS):
        expected = _expected(folder, model, prompt, Image.fromarray(pixels[place].numpy()))
        assert 1 < expected < 5
        assert 1 + 4 * float(scores[place]) == pytest.approx(expected, abs=1e-5)


def test_a_batch_of_mixed_prompt_lengths_equals_one_by_one(folder: Path, tiny_sd: Path) -> None:
    decoder = load_decoder(find_generator(GeneratorConfig(model=str(tiny_sd))), "cpu")
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * 0.15
    assert_batch_equals_one_by_one(decoder, _load(folder), PROMPTS, latents)


def test_the_gradient_of_a_rating_is_that_of_finite_differences(
    folder: Path, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_in_float64(monkeypatch)
    found = replace(find_scorer(ScorerConfig(model=str(folder), readout="rating")), type_name="float64")
    scorer: Any = found.family(found, "cpu", rounding=False)  # type: ignore[call-arg]
    latents = small_latents(1)
    assert_gradient_matches_finite_differences(decoder_in_float64(tiny_sd), scorer, PROMPTS[0], latents, stride=31)


@pytest.mark.parametrize("rating", [1, 2, 5])
def test_a_rating_that_is_sure_is_its_share_of_the_scale(rating: int) -> None:
    logits = torch.full((1, 5), -30.0)
    logits[0, rating - 1] = 30
    assert float(log_expected(logits).exp()) == pytest.approx((rating - 1) / 4, abs=1e-6)
    assert bool(log_expected(logits).isfinite().all())


# How it is asked for


def test_a_judge_rates_by_a_readout_of_its_own_or_by_the_scorers(tmp_path: Path, tiny_llava: Path) -> None:
    folder = tiny_families.unified_reward(tmp_path)
    images = _pixels(37, 53).permute(0, 3, 1, 2).float() / 255
    expected = _load(folder).log_scores(PROMPTS, images).exp().tolist()
    yes = ScorerConfig(model=str(tiny_llava))
    rating = ScorerConfig(model=str(folder), readout="rating")
    own = JudgeConfig(name="second", model=str(folder), readout="rating")
    for judge, scorers in ((own, yes), (JudgeConfig(name="second", model=str(folder)), rating)):
        assert load_judge(find_judge(judge, scorers), "cpu").judge(PROMPTS, images) == pytest.approx(expected)
    assert find_judge(JudgeConfig(name="second", model=str(tiny_llava)), rating).readout == "yes"


def test_a_family_that_does_not_rate_is_refused(tiny_llava: Path) -> None:
    judge = JudgeConfig(name="second", model=str(tiny_llava), readout="rating")
    with pytest.raises(UserError, match=r"judges\.second\.readout: .* LlavaFor.* which has no readout rating"):
        find_judge(judge, ScorerConfig())
    with pytest.raises(UserError, match=r"scorers\.readout: .* which has no readout rating; use yes or "):
        find_scorer(ScorerConfig(model=str(tiny_llava), readout="rating"))


def test_a_tokenizer_without_a_token_for_each_rating_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scorers\.model: the tokenizer of .* writes a rating as several tokens"):
        _load(tiny_families.qwen3_vl(tmp_path))


def test_another_question_than_the_published_one_is_refused() -> None:
    with pytest.raises(ValueError, match="readout rating asks as UnifiedReward was trained to be asked"):
        ScorerConfig(model="a/b", readout="rating", question="Is it {prompt}?")
