"""Every scorer family on tiny models of its true classes, against the library's processor and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from noisesmith.pipeline.config import GeneratorConfig, JudgeConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import Decoder, find_generator, load_decoder
from noisesmith.pipeline.images import decode_png, encode_png
from noisesmith.pipeline.scorers import find_judge, find_scorer, load_judge, load_scorer
from tests import tiny_families
from tests.scorers.checks import (
    assert_batch_equals_one_by_one,
    assert_gradient_matches_finite_differences,
    assert_half_precision_is_exact,
    assert_special_tokens_are_text,
    compute_in_float64,
    decoder_in_float64,
)
from tests.scorers.oracles import CHAT, FAMILIES

PROMPTS = ["a cat and a red car", "a dog", "a blue bowl under a cat with a red dog on a car"]
SIZES = [(37, 53), (64, 64), (100, 60)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = FAMILIES[name].build(tmp_path_factory.mktemp("families") / name)
        return made[name]

    return folder


@pytest.fixture(scope="module")
def decoder(tiny_sd: Path) -> Decoder:
    return load_decoder(find_generator(GeneratorConfig(model=str(tiny_sd))), "cpu")


def _load(name: str, folder: Path, dtype: torch.dtype = torch.float32, readout: str = "yes", **more: Any) -> Any:
    found = find_scorer(ScorerConfig(model=str(folder), readout=readout))
    return FAMILIES[name].scorer(replace(found, type_name=str(dtype).removeprefix("torch.")), "cpu", **more)


def _pictures(height: int, width: int) -> torch.Tensor:
    """uint8 ``[3, H, W, 3]``: noise and smooth shading, so that both rounding and overshoot matter."""
    pixels = torch.randint(0, 256, (3, height, width, 3), generator=torch.Generator().manual_seed(height)).byte()
    pixels[:, : height // 2] = torch.linspace(0, 255, width).byte()[None, None, :, None]
    return pixels


def _latents(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3)).to(dtype) * 0.15


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_score_equals_the_librarys_processor_and_forward(
    name: str, size: tuple[int, int], folders: Callable[[str], Path]
) -> None:
    """Through PNG bytes, as images are shipped; a batch of prompts of different lengths against one by one."""
    folder = folders(name)
    source = find_scorer(ScorerConfig(model=str(folder))).source
    model = FAMILIES[name].reference(folder, source.class_name)
    pixels = _pictures(*size)
    images = torch.stack([decode_png(encode_png(image)) for image in pixels])
    for readout in ("yes", "yes_no"):
        scores = _load(name, folder, readout=readout).log_scores(PROMPTS, images).exp()
        for position, prompt in enumerate(PROMPTS):
            picture = Image.fromarray(pixels[position].numpy())
            expected = FAMILIES[name].oracle(folder, model, prompt, picture, readout)
            assert 0 < expected < 1
            assert float(scores[position]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_images_in_half_precision_are_prepared_in_float32(name: str, folders: Callable[[str], Path]) -> None:
    scorer = _load(name, folders(name))
    assert_half_precision_is_exact(scorer, PROMPTS, _pictures(37, 53).permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_in_a_prompt_are_text(name: str, folders: Callable[[str], Path]) -> None:
    others = [] if name == "qwen3_5" else ["<image>", "<s>", "</s>"]  # text itself to a tokenizer that has bytes
    tokens = list(FAMILIES[name].special) or [*tiny_families.QWEN_TOKENS, *others]
    assert_special_tokens_are_text(_load(name, folders(name)), tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_of_mixed_prompt_lengths_equals_one_by_one(
    name: str, decoder: Decoder, folders: Callable[[str], Path]
) -> None:
    scorer = _load(name, folders(name))
    assert_batch_equals_one_by_one(decoder, scorer, PROMPTS, _latents(3))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_with_respect_to_z0_matches_finite_differences(
    name: str, tiny_sd: Path, folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, with smooth preprocessing, on a grid of coordinates."""
    # SigLIP 2 has a float32 table of weights, and multiplies its float32 positions by it.
    compute_in_float64(monkeypatch, casts=name != "siglip2")
    decoder = decoder_in_float64(tiny_sd)
    scorer = _load(name, folders(name), torch.float64, rounding=False)
    assert_gradient_matches_finite_differences(decoder, scorer, PROMPTS[0], _latents(1, torch.float64), stride=31)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_finds_the_family_by_its_class(name: str, folders: Callable[[str], Path]) -> None:
    model = str(folders(name))
    for loaded in (
        load_scorer(find_scorer(ScorerConfig(model=model)), "cpu"),
        load_judge(find_judge(JudgeConfig(name="second", model=model), ScorerConfig()), "cpu"),
    ):
        assert type(loaded) is FAMILIES[name].scorer
        assert loaded.id == model
        assert loaded.revision.startswith("local-")


@pytest.mark.parametrize("name", FAMILIES)
def test_judging_is_scoring(name: str, folders: Callable[[str], Path]) -> None:
    scorer = _load(name, folders(name))
    images = _pictures(37, 53).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = scorer.log_scores(PROMPTS, images).exp().tolist()
    assert scorer.judge(PROMPTS, images) == pytest.approx(expected)


@pytest.mark.parametrize("name", CHAT)
def test_a_checkpoint_without_a_chat_template_is_refused(name: str, tmp_path: Path) -> None:
    folder = FAMILIES[name].build(tmp_path)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        _load(name, folder)


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "hpsv2", "image_reward"])
def test_a_prompt_beyond_the_text_length_is_cut(name: str, folders: Callable[[str], Path]) -> None:
    scorer = _load(name, folders(name))
    long = " ".join(["a cat"] * 20)
    images = _pictures(37, 53).permute(0, 3, 1, 2).float()[:2] / 255
    images[1] = images[0]
    with torch.no_grad():
        cut, longer = scorer.log_scores([long, long + " and a dog"], images).tolist()
    assert cut == pytest.approx(longer, abs=1e-6)


def test_opposite_embeddings_have_a_finite_log_score(folders: Callable[[str], Path]) -> None:
    scorer = _load("clip", folders("clip"))

    class Opposite:
        image_embeds = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        text_embeds = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])

    lowest, highest = scorer.read(Opposite, torch.float32).tolist()
    assert math.isfinite(lowest)
    assert highest == pytest.approx(0, abs=1e-6)
