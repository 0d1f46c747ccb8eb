"""Scores and gradients on tiny models of the true classes, against the library and finite differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from noisesmith.pipeline.config import GeneratorConfig, ScorerConfig
from noisesmith.pipeline.generators import Decoder, find_generator, load_decoder
from noisesmith.pipeline.images import decode_png, encode_png, to_uint8
from noisesmith.pipeline.scorers import find_scorer, load_scorer
from noisesmith.pipeline.scorers.llava import Llava
from noisesmith.pipeline.search.render import render
from noisesmith.pipeline.search.score import score_latents
from tests.scorers.checks import (
    alone,
    assert_batch_equals_one_by_one,
    assert_gradient_matches_finite_differences,
    decoder_in_float64,
)

PROMPTS = ["a cat and a red car", "a dog", "a blue bowl under a cat"]
QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'


def _latents(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3)).to(dtype) * 0.15


@pytest.fixture(scope="module")
def decoder(tiny_sd: Path) -> Decoder:
    return load_decoder(find_generator(GeneratorConfig(model=str(tiny_sd))), "cpu")


@pytest.mark.parametrize("readout", ["yes", "yes_no"])
def test_score_equals_the_librarys_processor_and_forward(tiny_llava: Path, readout: str) -> None:
    """On images of an odd size, through PNG bytes as they are shipped."""
    pixels = torch.randint(0, 256, (3, 37, 53, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = [Image.fromarray(image.numpy()) for image in pixels]
    ours = load_scorer(find_scorer(ScorerConfig(model=str(tiny_llava), readout=readout)), "cpu").log_scores(
        PROMPTS, torch.stack([decode_png(encode_png(image)) for image in pixels])
    )
    processor = AutoProcessor.from_pretrained(tiny_llava)
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval()
    for position, prompt in enumerate(PROMPTS):
        text = f'USER: <image>\nDoes this figure show "{prompt}"? Please answer yes or no. ASSISTANT:'
        inputs = processor(text=text, images=images[position], return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        yes, no = (processor.tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No"))
        expected = logits.softmax(-1)[yes] if readout == "yes" else logits[[yes, no]].softmax(-1)[0]
        assert float(ours[position].exp()) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("prompt", ["{prompt}", "{question}", "{0.__class__} {", "%s $HOME {{ x }} {% raw %}"])
def test_a_prompt_is_asked_as_it_is_written(tiny_llava: Path, prompt: str) -> None:
    scorer: Any = load_scorer(find_scorer(ScorerConfig(model=str(tiny_llava))), "cpu")
    question = f'Does this figure show "{prompt}"? Please answer yes or no.'
    assert scorer.texts([scorer.ask(prompt)]) == [f"USER: <image>\n{question} ASSISTANT:"]


def test_batch_of_mixed_prompt_lengths_equals_one_by_one(decoder: Decoder, tiny_llava: Path) -> None:
    scorer = load_scorer(find_scorer(ScorerConfig(model=str(tiny_llava))), "cpu")
    assert_batch_equals_one_by_one(decoder, scorer, PROMPTS, _latents(3))


def test_gradient_with_respect_to_z0_matches_finite_differences(
    tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, with smooth preprocessing, on a grid of coordinates."""
    monkeypatch.setattr(  # the library's own norm computes in float32 whatever the model's dtype
        LlamaRMSNorm,
        "forward",
        lambda self, x: torch.nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon),
    )
    decoder = decoder_in_float64(tiny_sd)
    found = replace(find_scorer(ScorerConfig(model=str(tiny_llava), question=QUESTION)), type_name="float64")
    scorer = Llava(found, "cpu", rounding=False)
    assert_gradient_matches_finite_differences(decoder, scorer, PROMPTS[0], _latents(1, torch.float64), stride=17)


class Faint:
    """A scorer whose log s is that of the mean brightness, and too low for a float32 s."""

    id = "faint"
    revision = "1"

    def log_scores(self, prompts: list[str], images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).mean(1).log() - 200.0


def test_a_score_that_underflows_keeps_its_logarithm_and_its_gradient(tiny_sd: Path) -> None:
    decoder = decoder_in_float64(tiny_sd)
    latents = _latents(1, torch.float64)
    result = score_latents(decoder, alone(Faint()), PROMPTS[:1], latents, gradient=True)
    assert float(result.scores.float()) == 0.0
    assert result.log_scores.isfinite().all()
    assert_gradient_matches_finite_differences(decoder, Faint(), PROMPTS[0], latents, stride=31)


def test_the_scored_image_is_the_shipped_image(decoder: Decoder, tiny_llava: Path) -> None:
    scorer = load_scorer(find_scorer(ScorerConfig(model=str(tiny_llava))), "cpu")
    result = score_latents(decoder, alone(scorer), PROMPTS, _latents(3), gradient=False)
    rendered = render(decoder, {}, PROMPTS, [(latents, latents) for latents in _latents(3)])
    shipped = torch.stack([decode_png(row.pictures[1]) for row in rendered])
    with torch.no_grad():
        again = scorer.log_scores(PROMPTS, shipped).exp()
    assert torch.allclose(again, result.scores, atol=1e-6)


def test_rounding_to_bytes_is_half_up() -> None:
    levels = torch.tensor([0.0, 0.4999, 0.5, 1.5, 254.5, 255.0], dtype=torch.float64) / 255
    image = levels[None, None, None].expand(1, 3, 1, 6)
    assert to_uint8(image)[0, 0, :, 0].tolist() == [0, 0, 1, 2, 255, 255]


def test_a_score_that_is_not_finite_names_its_place(decoder: Decoder, tiny_llava: Path) -> None:
    scorer = load_scorer(find_scorer(ScorerConfig(model=str(tiny_llava))), "cpu")
    latents = _latents(3)
    latents[1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"\[1\]"):
        score_latents(decoder, alone(scorer), PROMPTS, latents, gradient=True)
