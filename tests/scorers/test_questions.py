"""Questions about parts, captions and contrasts on tiny models of real families: values, gradients, batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    InstructBlipForConditionalGeneration,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    ProcessorMixin,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from noisesmith.pipeline.config import QUESTION, JudgeConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.scorers import Trial, find_judge, find_scorer, load_scorer
from noisesmith.pipeline.scorers.vlm import DESCRIBE
from noisesmith.pipeline.text.edits import edits
from tests import tiny_families

ASKED = [
    [
        Question("Is there a cat?", "Yes"),
        Question("Does this figure show a red car?", "no"),
        Question("a bowl", "no dog"),
    ],
    [Question('Does this picture show "a dog" or a very long question about a bowl?', "no dog a cat on")],
    [Question("Is there a car?", "yes"), Question("Is there a dog?", "Yes")],
]
PROMPTS = ["a cat above a red car", "a dog", "a red bowl and a blue cat"]
STEP = 1e-5

# log-probabilities of the words of an answer to a question about an image, by the library alone
Reference = Callable[[Path, str, str, Image.Image], Tensor]


def _spoken(logits: Tensor, ids: list[int]) -> Tensor:
    """Log-probabilities of the last tokens of a text, which a decoder-only model reads: ``logits [T, vocabulary]``."""
    return torch.stack([logits[place - len(ids) - 1].log_softmax(-1)[token] for place, token in enumerate(ids)])


def _llava(folder: Path, question: str, answer: str, image: Image.Image) -> Tensor:
    processor, model = AutoProcessor.from_pretrained(folder), LlavaForConditionalGeneration.from_pretrained(folder)
    text = f"USER: <image>\n{question} ASSISTANT: {answer}"
    ids = processor.tokenizer(answer, add_special_tokens=False).input_ids
    return _spoken(model(**processor(text=text, images=image, return_tensors="pt")).logits[0], ids)


def _conversation(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def _llava_next(folder: Path, question: str, answer: str, image: Image.Image) -> Tensor:
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaNextForConditionalGeneration.from_pretrained(folder)
    text = processor.apply_chat_template(_conversation(question), add_generation_prompt=True)
    ids = processor.tokenizer(answer, add_special_tokens=False).input_ids
    inputs = processor(text=f"{text} {answer}", images=image, return_tensors="pt")
    return _spoken(model(**inputs).logits[0], ids)


def _qwen(folder: Path, question: str, answer: str, image: Image.Image) -> Tensor:
    """By the family's processor without its video half, whose class cannot be imported without torchvision."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    model = getattr(transformers, name).from_pretrained(folder)
    processor_class = getattr(transformers, name.replace("ForConditionalGeneration", "Processor"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
        processor = processor_class(AutoImageProcessor.from_pretrained(folder), tokenizer, None)
    text = tokenizer.apply_chat_template(_conversation(question), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    return _spoken(model(**processor(text=text + answer, images=image, return_tensors="pt")).logits[0], ids)


def _instructblip(folder: Path, question: str, answer: str, image: Image.Image) -> Tensor:
    processor = AutoProcessor.from_pretrained(folder)
    model = InstructBlipForConditionalGeneration.from_pretrained(folder)
    inputs = processor(text=f"Question: {question}", images=image, return_tensors="pt")
    ids = processor.tokenizer(answer, add_special_tokens=False).input_ids
    if not model.config.use_decoder_only_language_model:
        logits = model(**inputs, labels=torch.tensor([ids])).logits[0]
        return logits.log_softmax(-1)[range(len(ids)), ids]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return _spoken(model(**inputs).logits[0], ids)


@dataclass(frozen=True)
class Family:
    """A tiny checkpoint, its answers by the library, and whether it begins them with a capital letter."""

    reference: Reference
    capital: bool


FAMILIES = {
    "llava": Family(_llava, True),
    "qwen2_5_vl": Family(_qwen, True),
    "instructblip_t5": Family(_instructblip, False),
}
OTHERS = {
    "instructblip_vicuna": Family(_instructblip, False),
    "llava_next": Family(_llava_next, True),
    "qwen2_vl": Family(_qwen, True),
    "qwen3_vl": Family(_qwen, True),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family of ``tests/tiny_families.py``, made once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = getattr(tiny_families, name)(tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture
def folder(request: pytest.FixtureRequest, built: Callable[[str], Path], name: str) -> Path:
    if hasattr(tiny_families, name):
        return built(name)
    found: Path = request.getfixturevalue(f"tiny_{name}")
    return found


@pytest.fixture(autouse=True)
def double_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own norms compute in float32 whatever the model's dtype."""

    def norm(self: Any, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(T5LayerNorm, "forward", norm)


def _images(count: int) -> Tensor:
    levels = torch.randint(0, 256, (count, 3, 37, 53), generator=torch.Generator().manual_seed(0))
    return levels.float() / 255


def _pil(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def _scorer(folder: Path, **fields: Any) -> Any:
    return load_scorer(find_scorer(ScorerConfig(model=str(folder), **fields)), "cpu")


def _as_spelled(answer: str, family: Family) -> str:
    return answer.capitalize() if family.capital else answer.lower()


@pytest.mark.parametrize("name", FAMILIES | OTHERS)
@torch.no_grad()
def test_an_answer_has_the_probability_of_all_its_tokens(folder: Path, name: str) -> None:
    """A batch of images with different numbers of questions and lengths of answers, against each alone."""
    family = (FAMILIES | OTHERS)[name]
    images = _images(3)
    answers = _scorer(folder, asks="questions").log_answers(ASKED, images)
    for image, about_image, found in zip(images, ASKED, answers, strict=True):
        expected = []
        for asked in about_image:
            spoken = family.reference(folder, asked.question, _as_spelled(asked.answer, family), _pil(image))
            expected.append(float(spoken.sum()))
        assert found.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_yes_no_compares_the_two_words(folder: Path, name: str) -> None:
    family = FAMILIES[name]
    images = _images(1)
    (yes, no) = (Question("Is there a cat?", "Yes"), Question("Is there a cat?", "No"))
    (found,) = _scorer(folder, asks="questions", readout="yes_no").log_answers([[yes, no]], images)
    words = [_as_spelled(word, family) for word in ("yes", "no")]
    spoken = torch.stack([family.reference(folder, yes.question, word, _pil(images[0]))[0] for word in words])
    assert found.tolist() == pytest.approx(spoken.log_softmax(0).tolist(), rel=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_hint_follows_each_question(folder: Path, name: str) -> None:
    images = _images(1)
    hinted = _scorer(folder, asks="questions", hint="Please answer yes or no.").log_answers(
        [[Question("Is there a cat?", "Yes")]], images
    )
    written = _scorer(folder, asks="questions").log_answers(
        [[Question("Is there a cat? Please answer yes or no.", "Yes")]], images
    )
    assert torch.equal(hinted[0], written[0])


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_whole_prompt_as_a_question_scores_as_the_prompt(folder: Path, name: str) -> None:
    images = _images(3)
    asked = [[Question(QUESTION.replace("{prompt}", prompt), "Yes")] for prompt in PROMPTS]
    answers = _scorer(folder, asks="questions").log_answers(asked, images)
    expected = _scorer(folder).log_scores(PROMPTS, images)
    assert torch.cat(answers).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("name", [*FAMILIES, "clip_flant5"])
def test_neither_the_order_nor_the_size_of_batches_matters(folder: Path, name: str) -> None:
    images = _images(3).requires_grad_()
    answers = _scorer(folder, asks="questions").log_answers(ASKED, images)
    (slopes,) = torch.autograd.grad(sum(answer.mean() for answer in answers), images)
    small = _scorer(folder, asks="questions", batch_size=2).log_answers(ASKED[::-1], images.flip(0))[::-1]
    (small_slopes,) = torch.autograd.grad(sum(answer.mean() for answer in small), images)
    assert torch.cat(small).tolist() == pytest.approx(torch.cat(answers).tolist(), rel=1e-4)
    assert float((small_slopes - slopes).norm() / slopes.norm()) < 1e-4


READS: dict[str, tuple[dict[str, str], Callable[[Any, Tensor], Tensor]]] = {
    "questions": (
        {"asks": "questions"},
        lambda scorer, images: torch.stack([answer.mean() for answer in scorer.log_answers(ASKED[:1], images)]),
    ),
    "caption": ({"readout": "caption"}, lambda scorer, images: scorer.log_scores(PROMPTS[:1], images)),
    "contrastive": ({"readout": "contrastive"}, lambda scorer, images: scorer.log_scores(PROMPTS[:1], images)),
}


@pytest.mark.parametrize("what", READS)
@pytest.mark.parametrize("name", ["llava", "instructblip_t5"])
def test_gradient_matches_finite_differences_in_float64(folder: Path, name: str, what: str) -> None:
    fields, read = READS[what]
    found = replace(find_scorer(ScorerConfig(model=str(folder), **fields)), type_name="float64")
    scorer: Any = found.family(found, "cpu", rounding=False)  # type: ignore[call-arg]
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(read(scorer, leaf).sum(), leaf)
    assert float(slopes.abs().max()) > 0
    for coordinate in range(0, images.numel(), 97):
        delta = torch.zeros_like(images)
        delta.view(-1)[coordinate] = STEP
        with torch.no_grad():
            rise = float(read(scorer, images + delta) - read(scorer, images - delta))
        assert rise / (2 * STEP) == pytest.approx(float(slopes.view(-1)[coordinate]), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_caption_has_the_mean_log_probability_of_its_tokens(folder: Path, name: str) -> None:
    images = _images(3)
    found = _scorer(folder, readout="caption").log_scores(PROMPTS, images)
    for image, prompt, log_score in zip(images, PROMPTS, found, strict=True):
        expected = FAMILIES[name].reference(folder, DESCRIBE, prompt, _pil(image)).mean()
        assert float(log_score) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_contrast_is_the_softmax_over_the_prompt_and_its_edits(folder: Path, name: str) -> None:
    """Without edits it is P(yes) of yes and no."""
    images = _images(3)
    found = _scorer(folder, readout="contrastive", batch_size=3).log_scores(PROMPTS, images)
    sure = _scorer(folder, readout="yes_no")
    for image, prompt, log_score in zip(images, PROMPTS, found, strict=True):
        texts = [prompt, *edits(prompt)]
        scores = sure.log_scores(texts, image.expand(len(texts), -1, -1, -1)).exp()
        odds = torch.logit(scores)
        expected = odds.softmax(0)[0] if len(texts) > 1 else scores[0]
        assert float(log_score.exp()) == pytest.approx(float(expected), rel=1e-4)
    assert [len(edits(prompt)) for prompt in PROMPTS] == [3, 0, 1]


# What cannot be asked


@pytest.mark.parametrize("readout", ["reference", "caption", "contrastive"])
def test_questions_are_not_read_like_whole_prompts(readout: str) -> None:
    with pytest.raises(ValueError, match=f"readout {readout} reads the answer about a whole prompt; use yes or yes_no"):
        ScorerConfig(asks="questions", readout=readout)


def test_a_hint_without_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="hint is appended to questions about parts of a prompt; set asks: questions"):
        ScorerConfig(hint="Answer in one word.")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"asks": "questions"}, r"^scorers\.asks: .* is a CLIPModel, which answers none; set asks: prompt"),
        (
            {"readout": "caption"},
            r"^scorers\.readout: .* which has no readout caption; use yes or yes_no",
        ),
        ({"readout": "contrastive"}, r"^scorers\.readout: .* has no readout contrastive"),
    ],
)
def test_a_similarity_model_answers_no_questions(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    folder = tiny_families.clip(tmp_path)
    with pytest.raises(UserError, match=says):
        find_scorer(ScorerConfig(model=str(folder), **fields))


def test_a_judge_is_asked_about_the_whole_prompt(tiny_llava: Path) -> None:
    for readout, read in (("caption", "yes"), ("contrastive", "yes"), ("yes_no", "yes_no")):
        scorers = ScorerConfig.model_validate({"readout": readout})
        assert find_judge(JudgeConfig(name="second", model=str(tiny_llava)), scorers).readout == read
    found = find_judge(JudgeConfig(name="second", model=str(tiny_llava)), ScorerConfig(asks="questions"))
    assert found.asks == "prompt"


def test_one_question_is_tried_when_a_scorer_is_loaded(tiny_llava: Path) -> None:
    found = find_scorer(ScorerConfig(model=str(tiny_llava), asks="questions"))
    load_scorer(found, "cpu", Trial(16, 16, torch.float32, gradient=True))
