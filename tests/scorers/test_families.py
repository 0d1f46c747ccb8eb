"""Every family and readout on tiny models of the true classes, against the library and finite differences."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    InstructBlipForConditionalGeneration,
    LlavaForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from noisesmith.pipeline.config import QUESTION, GeneratorConfig, JudgeConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_decoder
from noisesmith.pipeline.images import to_uint8
from noisesmith.pipeline.scorers import FAMILIES, find_judge, find_scorer, load_judge, load_scorer
from noisesmith.pipeline.scorers.family import ScorerFamily
from noisesmith.pipeline.scorers.llava import SYSTEM
from noisesmith.pipeline.search.score import score_latents
from tests.scorers.checks import (
    alone,
    assert_batch_equals_one_by_one,
    assert_gradient_matches_finite_differences,
    assert_half_precision_is_exact,
    assert_special_tokens_are_text,
    decoder_in_float64,
)
from tests.tiny_scorers import write_weights

PROMPTS = ["a cat and a red car", "a dog", "a blue bowl under a cat and a bench"]
MODELS = ["llava", "clip_flant5", "instructblip_t5", "instructblip_vicuna"]
READOUTS = ["yes", "yes_no", "reference"]


@pytest.fixture
def folder(request: pytest.FixtureRequest, model: str) -> Path:
    return request.getfixturevalue(f"tiny_{model}")


def _shown(readout: str, size: int = 16) -> tuple[Tensor, Callable[[int, Any], Tensor]]:
    """Images of an odd size, and what a processor makes of each: by way of PIL, or as the official code does."""
    generator = torch.Generator().manual_seed(0)
    if readout != "reference":
        levels = torch.randint(0, 256, (3, 37, 53, 3), dtype=torch.uint8, generator=generator)

        def by_library(position: int, processor: Any) -> Tensor:
            return processor(Image.fromarray(levels[position].numpy()), return_tensors="pt")["pixel_values"]

        return levels.permute(0, 3, 1, 2).float() / 255, by_library
    decoded = torch.randn(3, 3, 37, 53, generator=generator)  # the VAE's output, overshoot included

    def by_official(position: int, processor: Any) -> Tensor:
        resized = nn.functional.interpolate(decoded[position : position + 1], (size, size * 53 // 37), mode="bicubic")
        left = round((resized.shape[-1] - size) / 2)
        mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        return (resized[..., left : left + size] - mean) / std

    return decoded / 2 + 0.5, by_official


def _read(logits: Tensor, labels: list[int], no: int, readout: str) -> float:
    """``logits [len(labels), vocabulary]``, each label's."""
    if readout == "yes_no":
        return float(logits[0, [labels[0], no]].softmax(-1)[0])
    if readout == "yes":
        return float(logits[0].softmax(-1)[labels[0]])
    return math.exp(-float(nn.functional.cross_entropy(logits, torch.tensor(labels))))


def _question(prompt: str) -> str:
    return QUESTION.replace("{prompt}", prompt)


def _llava(folder: Path, prompt: str, pixels: Callable[[Any], Tensor], readout: str) -> float:
    processor, model = AutoProcessor.from_pretrained(folder), LlavaForConditionalGeneration.from_pretrained(folder)
    system = f"{SYSTEM} " if readout == "reference" else ""
    text = f"{system}USER: <image>\n{_question(prompt)} ASSISTANT: Yes</s>"
    inputs = processor(text=text, images=Image.new("RGB", (20, 20)), return_tensors="pt")
    inputs["pixel_values"] = pixels(processor.image_processor)
    yes, no, end = (processor.tokenizer.convert_tokens_to_ids(token) for token in ("Yes", "No", "</s>"))
    assert inputs["input_ids"][0, -2:].tolist() == [yes, end]
    return _read(model(**inputs).logits[0, -3:-1], [yes, end], no, readout)


def _instructblip(folder: Path, prompt: str, pixels: Callable[[Any], Tensor], readout: str) -> float:
    processor = AutoProcessor.from_pretrained(folder)
    model = InstructBlipForConditionalGeneration.from_pretrained(folder)
    text = f"Question: {_question(prompt)}"
    inputs = processor(text=text, images=Image.new("RGB", (20, 20)), return_tensors="pt")
    inputs["pixel_values"] = pixels(processor.image_processor)
    yes, no = (processor.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("yes", "no"))
    labels = [yes, processor.tokenizer.eos_token_id]
    if not model.config.use_decoder_only_language_model:
        return _read(model(**inputs, labels=torch.tensor([labels])).logits[0], labels, no, readout)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([labels])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return _read(model(**inputs).logits[0, -3:-1], labels, no, readout)


def _clip_flant5(folder: Path, prompt: str, pixels: Callable[[Any], Tensor], readout: str) -> float:
    """Step by step from the two library classes: no code of ours, and no batch."""
    weights = load_file(folder / "model.safetensors")
    t5 = T5ForConditionalGeneration(T5Config.from_pretrained(folder)).eval()
    t5.lm_head.weight = nn.Parameter(weights["lm_head.weight"])
    t5.load_state_dict({name: weights[name] for name in t5.state_dict()})
    tower = CLIPVisionModel(CLIPVisionConfig.from_pretrained(folder / "tower")).eval()
    tower.load_state_dict(
        {name: weights[f"vision_tower.vision_tower.vision_model.{name}"] for name in tower.state_dict()}
    )
    features = tower(
        pixels(CLIPImageProcessor.from_pretrained(folder / "tower")), output_hidden_states=True
    ).hidden_states[-2][:, 1:]
    features = nn.functional.linear(features, weights["mm_projector.0.weight"], weights["mm_projector.0.bias"])
    features = nn.functional.gelu(features)
    features = nn.functional.linear(features, weights["mm_projector.2.weight"], weights["mm_projector.2.bias"])

    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, after = f"{SYSTEM} USER: <image>\n{_question(prompt)} ASSISTANT: ".split("<image>")
    text = [torch.tensor([tokenizer(piece).input_ids]) for piece in (before, after)]
    assert all(piece[0, -1] == tokenizer.eos_token_id for piece in text)
    hidden = t5.encoder(inputs_embeds=torch.cat([t5.shared(text[0]), features, t5.shared(text[1])], 1))[0]
    yes, no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No"))
    labels = [yes, tokenizer.eos_token_id]
    steps = [
        t5.lm_head(t5.decoder(input_ids=torch.tensor([given]), encoder_hidden_states=hidden)[0])[0, -1]
        for given in ([0], [0, yes])
    ]
    logits = torch.stack(steps)
    return _read(logits[:, : len(tokenizer)] if readout == "reference" else logits, labels, no, readout)


def _on_square(processor: Any) -> Callable[..., Any]:
    """A processor that first pads to a square with its mean colour, by PIL."""

    def apply(image: Image.Image, **options: Any) -> Any:
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in processor.image_mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return processor(square, **options)

    return apply


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_score_equals_the_librarys_processor_and_forward(folder: Path, model: str, readout: str) -> None:
    """A batch of odd-sized images and prompts of mixed lengths against each alone."""
    images, shown = _shown(readout)
    scorer = load_scorer(find_scorer(ScorerConfig(model=str(folder), readout=readout)), "cpu")
    scores = scorer.log_scores(PROMPTS, images).exp()
    reference = {"llava": _llava, "clip_flant5": _clip_flant5}.get(model, _instructblip)
    padded = model == "clip_flant5" and readout != "reference"
    for position, prompt in enumerate(PROMPTS):

        def view(image: Any, position: int = position) -> Any:
            return shown(position, _on_square(image) if padded else image)

        expected = reference(folder, prompt, view, readout)
        print(f"{model} {readout}: difference {abs(float(scores[position]) - expected):.1e} of {expected:.4f}")
        assert float(scores[position]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_images_in_half_precision_are_prepared_in_float32(folder: Path, model: str, readout: str) -> None:
    scorer = load_scorer(find_scorer(ScorerConfig(model=str(folder), readout=readout)), "cpu")
    assert_half_precision_is_exact(scorer, PROMPTS, _shown(readout)[0])


@pytest.fixture
def double_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own norms compute in float32 whatever the model's dtype."""

    def norm(self: Any, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(T5LayerNorm, "forward", norm)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_gradient_with_respect_to_z0_matches_finite_differences(
    tiny_sd: Path, folder: Path, model: str, readout: str, double_norms: None
) -> None:
    """In float64, with smooth preprocessing; the reference readout also where the image leaves [0, 1]."""
    decoder = decoder_in_float64(tiny_sd, clamp=readout != "reference")
    found = replace(find_scorer(ScorerConfig(model=str(folder), readout=readout)), type_name="float64")
    scorer: Any = found.family(found, "cpu", rounding=False)  # type: ignore[call-arg]
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 0.15
    assert_gradient_matches_finite_differences(decoder, scorer, PROMPTS[0], latents, stride=37)


@pytest.mark.parametrize("model", MODELS)
def test_batch_of_mixed_prompt_lengths_equals_one_by_one(tiny_sd: Path, folder: Path, model: str) -> None:
    decoder = load_decoder(find_generator(GeneratorConfig(model=str(tiny_sd))), "cpu")
    scorer = load_scorer(find_scorer(ScorerConfig(model=str(folder))), "cpu")
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * 0.15
    assert_batch_equals_one_by_one(decoder, scorer, PROMPTS, latents)


@pytest.mark.parametrize("model", MODELS)
def test_control_tokens_in_a_prompt_are_text(folder: Path, model: str) -> None:
    tokens = {"llava": ["<image>"], "clip_flant5": []}.get(model, ["<image>", "[SEP]"])  # text itself to the others
    scorer = load_scorer(find_scorer(ScorerConfig(model=str(folder))), "cpu")
    assert_special_tokens_are_text(scorer, ["</s>", "<pad>", *tokens])


def test_only_the_reference_readout_sees_beyond_the_clamp(tiny_sd: Path, tiny_clip_flant5: Path) -> None:
    """Latents so large that the decoder overshoots: other readouts lose the gradient there, this one does not."""
    found = find_generator(GeneratorConfig(model=str(tiny_sd)))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * 5
    raw, clamped = load_decoder(found, "cpu", clamp=False), load_decoder(found, "cpu")
    assert float(raw(latents).max()) > 1
    assert torch.equal(raw(latents).clamp(0, 1), clamped(latents))
    scorer = load_scorer(find_scorer(ScorerConfig(model=str(tiny_clip_flant5), readout="reference")), "cpu")
    results = [
        score_latents(decoder, alone(scorer), PROMPTS[:1], latents, gradient=False) for decoder in (raw, clamped)
    ]
    assert torch.equal(to_uint8(raw(latents)), to_uint8(clamped(latents))), "the image that ships is the same"
    assert float(results[0].scores) != float(results[1].scores)


def test_a_judge_is_never_read_by_reference(tiny_llava: Path) -> None:
    scorers = ScorerConfig(model="embedded", readout="reference")
    judge: Any = load_judge(find_judge(JudgeConfig(name="second", model=str(tiny_llava)), scorers), "cpu")
    assert judge.readout == "yes"


# Wrong checkpoints


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path, folder: Path, model: str) -> None:
    """The library would fill them with random numbers and go on."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    lost = next(name for name in weights if "projector" in name or "language_projection" in name)
    write_weights(copy, {name: value for name, value in weights.items() if name != lost})
    with pytest.raises(UserError, match=r"scorers\.model: .* not laid out as .* \(1 missing, first .*proj"):
        load_scorer(find_scorer(ScorerConfig(model=str(copy))), "cpu")


@pytest.mark.parametrize("model", MODELS)
def test_pickled_weights_are_read_only_with_the_flag(tmp_path: Path, folder: Path, model: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"scorers\.model: .* no model\.safetensors; .*scorers\.allow_pickle=true"):
        find_scorer(ScorerConfig(model=str(copy)))
    images = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    pickled, safe = (
        load_scorer(find_scorer(ScorerConfig(model=str(path), allow_pickle=True)), "cpu").log_scores(PROMPTS, images)
        for path in (copy, folder)
    )
    assert torch.allclose(pickled, safe, rtol=0, atol=1e-5)


class _Attack:
    """Pickles as a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("attacked"),)


def test_a_pickle_that_runs_code_is_refused_even_with_the_flag(
    tmp_path: Path, tiny_clip_flant5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_clip_flant5, copy)
    (copy / "model.safetensors").unlink()
    torch.save({"shared.weight": _Attack()}, copy / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"scorers\.model: .* cannot be loaded"):
        load_scorer(find_scorer(ScorerConfig(model=str(copy), allow_pickle=True)), "cpu")
    assert not (tmp_path / "attacked").exists()


def test_every_family_is_found_by_the_class_its_checkpoints_name() -> None:
    for name in FAMILIES.values():
        assert issubclass(resolve_name(name), ScorerFamily)
