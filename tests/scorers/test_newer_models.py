"""What vision-language models with tiles see, against the library's own processors, and answers of several tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from noisesmith.pipeline.config import ScorerConfig
from noisesmith.pipeline.models.libraries import Settings
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.scorers import find_scorer, load_scorer
from noisesmith.pipeline.scorers.internvl import count_tiles, preprocess_grid
from noisesmith.pipeline.scorers.llava_next import preprocess_tiles
from noisesmith.pipeline.scorers.smolvlm import preprocess_split
from tests.scorers.oracles import CHAT, FAMILIES, spoken

SIZES = [(37, 53), (64, 64), (100, 60)]
LARGE = [(512, 512), (333, 517), (700, 300)]
FORCED: dict[str, dict[str, bool]] = {"internvl": {"crop_to_patches": True}}  # by the family's whole processor
ANSWERING = ["gemma3", "internvl", "llava_onevision", "paligemma2", "qwen3_5", "smolvlm"]
ASKED = [
    [Question("Is there a cat?", "Yes"), Question("a bowl", "no dog")],
    [Question('Does this picture show "a dog" or a very long question about a bowl?', "no dog a cat on")],
]


def _pictures(height: int, width: int, count: int = 1) -> torch.Tensor:
    """uint8 ``[count, H, W, 3]``: noise and smooth shading, so that both rounding and overshoot matter."""
    pixels = torch.randint(0, 256, (count, height, width, 3), generator=torch.Generator().manual_seed(height)).byte()
    pixels[:, : height // 2] = torch.linspace(0, 255, width).byte()[None, None, :, None]
    return pixels


def _images(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.permute(0, 3, 1, 2).float() / 255


def _pil(pixels: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def _assert_equal(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", CHAT)
def test_the_models_inputs_equal_the_librarys(name: str, tmp_path: Path) -> None:
    folder = FAMILIES[name].build(tmp_path)
    scorer: Any = load_scorer(find_scorer(ScorerConfig(model=str(folder))), "cpu")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    for size in SIZES:
        pixels = _pictures(*size, count=3)
        pictures = [[picture] for picture in _pil(pixels)] if name == "smolvlm" else _pil(pixels)
        expected = processor(pictures, return_tensors="pt", **FORCED.get(name, {}))
        ours = scorer.vision_inputs(_images(pixels)).arguments
        assert ours
        for key, value in ours.items():
            _assert_equal(value, expected[key])


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", LARGE)
def test_llava_next_tiles_equal_the_librarys_at_the_checkpoints_settings(size: tuple[int, int], resample: int) -> None:
    processor = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, resample=resample
    )
    pixels = _pictures(*size)
    expected = processor(_pil(pixels), return_tensors="pt")["pixel_values"]
    _assert_equal(preprocess_tiles(_images(pixels), processor), expected)


@pytest.mark.parametrize("size", LARGE)
def test_llava_onevision_tiles_equal_the_librarys_at_the_checkpoints_settings(size: tuple[int, int]) -> None:
    processor = transformers.LlavaOnevisionImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    pixels = _pictures(*size)
    expected = processor(_pil(pixels), return_tensors="pt")["pixel_values"]
    _assert_equal(preprocess_tiles(_images(pixels), processor), expected)


@pytest.mark.parametrize("size", [*LARGE, (900, 900)])
def test_internvl_tiles_equal_the_librarys_at_the_checkpoints_settings(size: tuple[int, int]) -> None:
    processor = transformers.GotOcr2ImageProcessor(size={"height": 448, "width": 448})
    pixels = _pictures(*size)
    expected = processor(_pil(pixels), return_tensors="pt", crop_to_patches=True)["pixel_values"]
    ours = preprocess_grid(_images(pixels), processor, count_tiles(processor, *size))
    _assert_equal(ours[0], expected)


@pytest.mark.parametrize("splitting", [True, False])
@pytest.mark.parametrize("size", LARGE[1:])
def test_smolvlm_tiles_equal_the_librarys_at_the_checkpoints_settings(size: tuple[int, int], splitting: bool) -> None:
    processor = transformers.SmolVLMImageProcessor(
        size={"longest_edge": 1152}, max_image_size={"longest_edge": 384}, do_image_splitting=splitting
    )
    pixels = _pictures(*size)
    expected = processor(_pil(pixels), return_tensors="pt", return_row_col_info=True)
    grid = (expected["rows"][0][0], expected["cols"][0][0])
    _assert_equal(preprocess_split(_images(pixels), processor, grid), expected["pixel_values"])


def test_smolvlm_answers_in_the_tokens_that_its_template_gives_an_answer(tmp_path: Path) -> None:
    scorer: Any = load_scorer(find_scorer(ScorerConfig(model=str(FAMILIES["smolvlm"].build(tmp_path)))), "cpu")
    (asked,) = scorer.read("Is there a cat?")
    question = [{"type": "image"}, {"type": "text", "text": "Is there a cat?"}]
    for answer, tokens in (("Yes", [scorer.yes]), ("No", [scorer.no]), ("a red car", scorer.tokens("a red car"))):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        conversation = scorer.tokenizer.apply_chat_template(turns, tokenize=False).replace("<image>", "")
        ids = scorer.tokenizer(conversation).input_ids
        end = ids.index(scorer.tokenizer.eos_token_id, len(asked))
        assert ids[: len(asked)] == asked
        assert ids[len(asked) : end] == tokens


@pytest.mark.parametrize("name", ANSWERING)
@torch.no_grad()
def test_an_answer_has_the_probability_of_all_its_tokens(name: str, tmp_path: Path) -> None:
    """A batch of images with different numbers of questions and lengths of answers, against each alone."""
    family = FAMILIES[name]
    folder = family.build(tmp_path)
    found = find_scorer(ScorerConfig(model=str(folder), asks="questions"))
    scorer: Any = load_scorer(found, "cpu")
    model: Settings = getattr(transformers, found.source.class_name).from_pretrained(folder).eval()
    pixels = _pictures(37, 53, count=2)
    answers = scorer.log_answers(ASKED, _images(pixels))
    for picture, about_image, ours in zip(_pil(pixels), ASKED, answers, strict=True):
        expected = []
        for asked in about_image:
            answer = asked.answer.lower() if name == "paligemma2" else asked.answer.capitalize()
            expected.append(float(spoken(family, folder, model, asked.question, answer, picture).sum()))
        assert ours.tolist() == pytest.approx(expected, rel=1e-4)
