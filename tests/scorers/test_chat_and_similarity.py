"""Every scorer family on tiny models of its true classes, against the library's processor and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin

from noisesmith.pipeline.config import QUESTION, GeneratorConfig, JudgeConfig, ScorerConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import Decoder, find_generator, load_decoder
from noisesmith.pipeline.images import decode_png, encode_png
from noisesmith.pipeline.models.locate import locate
from noisesmith.pipeline.scorers import FoundScorer, find_judge, find_scorer, load_judge, load_scorer
from noisesmith.pipeline.scorers.clip import Clip, Siglip, Siglip2
from noisesmith.pipeline.scorers.llava_next import LlavaNext
from noisesmith.pipeline.scorers.qwen_vl import QwenVL
from tests import tiny_families
from tests.scorers.checks import (
    assert_batch_equals_one_by_one,
    assert_gradient_matches_finite_differences,
    assert_special_tokens_are_text,
    decoder_in_float64,
)

PROMPTS = ["a cat and a red car", "a dog", "a blue bowl under a cat with a red dog on a car"]
SIZES = [(37, 53), (64, 64), (100, 60)]

Oracle = Callable[[Path, Any, str, Image.Image, str], float]


@dataclass(frozen=True)
class Family:
    """A tiny checkpoint, our scorer for it, and P by the library's own processor and forward."""

    build: Callable[[Path], Path]
    scorer: Any
    oracle: Oracle


def _answer(model: Any, inputs: Any, tokenizer: Any, readout: str) -> float:
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No"))
    return float(logits.softmax(-1)[yes] if readout == "yes" else logits[[yes, no]].softmax(-1)[0])


def _conversation(prompt: str) -> list[dict[str, Any]]:
    content = [{"type": "image"}, {"type": "text", "text": QUESTION.replace("{prompt}", prompt)}]
    return [{"role": "user", "content": content}]


def _llava_next(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(_conversation(prompt), add_generation_prompt=True)
    return _answer(model, processor(text=text, images=image, return_tensors="pt"), processor.tokenizer, readout)


def _qwen(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
    """By the family's processor without its video half, whose class cannot be imported without torchvision."""
    processor_class = getattr(transformers, type(model).__name__.replace("ForConditionalGeneration", "Processor"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
        processor = processor_class(AutoImageProcessor.from_pretrained(folder), tokenizer, None)
    text = tokenizer.apply_chat_template(_conversation(prompt), tokenize=False, add_generation_prompt=True)
    return _answer(model, processor(text=text, images=image, return_tensors="pt"), tokenizer, readout)


def _clip(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
    inputs = AutoProcessor.from_pretrained(folder)(text=prompt, images=image, return_tensors="pt")
    with torch.no_grad():
        cosine = model(**inputs).logits_per_image / model.logit_scale.exp()
    return float((1 + cosine) / 2)


def _siglip(folder: Path, model: Any, prompt: str, image: Image.Image, readout: str) -> float:
    processor = AutoProcessor.from_pretrained(folder)
    tokens = processor.tokenizer(prompt, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        logit = model(**tokens, **processor.image_processor(image, return_tensors="pt")).logits_per_image
    return float(logit.sigmoid())


FAMILIES = {
    "llava_next": Family(tiny_families.llava_next, LlavaNext, _llava_next),
    "qwen2_vl": Family(tiny_families.qwen2_vl, QwenVL, _qwen),
    "qwen2_5_vl": Family(tiny_families.qwen2_5_vl, QwenVL, _qwen),
    "qwen3_vl": Family(tiny_families.qwen3_vl, QwenVL, _qwen),
    "clip": Family(tiny_families.clip, Clip, _clip),
    "siglip": Family(tiny_families.siglip, Siglip, _siglip),
    "siglip2": Family(tiny_families.siglip2, Siglip2, _siglip),
}
CHAT = ["llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


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
    source = locate(str(folder), None, "scorers.model", "config.json")
    found = FoundScorer(source, FAMILIES[name].scorer, QUESTION, readout, dtype)
    return FAMILIES[name].scorer(found, "cpu", **more)


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
    model = getattr(transformers, source.class_name).from_pretrained(folder).eval()
    pixels = _pictures(*size)
    images = torch.stack([decode_png(encode_png(image)) for image in pixels])
    for readout in ("yes", "yes_no"):
        scores = _load(name, folder, readout=readout).log_scores(PROMPTS, images).exp()
        for position, prompt in enumerate(PROMPTS):
            picture = Image.fromarray(pixels[position].numpy())
            expected = FAMILIES[name].oracle(folder, model, prompt, picture, readout)
            assert 0 < expected < 1
            assert float(scores[position]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_anyres_tiles_equal_the_librarys(size: tuple[int, int], folders: Callable[[str], Path]) -> None:
    processor = AutoProcessor.from_pretrained(folders("llava_next")).image_processor
    _assert_same_pixels(_load("llava_next", folders("llava_next")), processor, size)


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", [(512, 512), (333, 517), (700, 300)])
def test_anyres_tiles_equal_the_librarys_at_the_checkpoints_settings(size: tuple[int, int], resample: int) -> None:
    from noisesmith.pipeline.scorers.llava_next import preprocess_tiles

    processor = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, resample=resample
    )
    pixels = _pictures(*size)[:1]
    expected = processor(Image.fromarray(pixels[0].numpy()), return_tensors="pt")["pixel_values"]
    ours = preprocess_tiles(pixels.permute(0, 3, 1, 2).float() / 255, processor)
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_flat_patches_equal_the_librarys(name: str, size: tuple[int, int], folders: Callable[[str], Path]) -> None:
    _assert_same_pixels(_load(name, folders(name)), AutoImageProcessor.from_pretrained(folders(name)), size)


def _assert_same_pixels(scorer: Any, processor: Any, size: tuple[int, int]) -> None:
    pixels = _pictures(*size)
    expected = processor([Image.fromarray(image.numpy()) for image in pixels], return_tensors="pt")
    ours = scorer.vision_inputs(pixels.permute(0, 3, 1, 2).float() / 255).arguments
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert ours[key].shape == value.shape
        assert float((ours[key] - value).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_in_a_prompt_are_text(name: str, folders: Callable[[str], Path]) -> None:
    tokens = ["<image>", *tiny_families.QWEN_TOKENS, "<s>", "</s>"]
    assert_special_tokens_are_text(_load(name, folders(name)), tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_of_mixed_prompt_lengths_equals_one_by_one(
    name: str, decoder: Decoder, folders: Callable[[str], Path]
) -> None:
    scorer = _load(name, folders(name))
    assert_batch_equals_one_by_one(decoder, scorer, PROMPTS, _latents(3))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_with_respect_to_z0_matches_finite_differences(
    name: str, tiny_sd: Path, folders: Callable[[str], Path], in_float64: None
) -> None:
    """In float64, with smooth preprocessing, on a grid of coordinates."""
    decoder = decoder_in_float64(tiny_sd)
    scorer = _load(name, folders(name), torch.float64, rounding=False)
    assert_gradient_matches_finite_differences(decoder, scorer, PROMPTS[0], _latents(1, torch.float64), stride=31)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's norms and vision rotations compute in float32 whatever the model's dtype; here they do not."""
    from transformers.models.llama import modeling_llama
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
    from transformers.models.qwen2_vl import modeling_qwen2_vl
    from transformers.models.qwen3_vl import modeling_qwen3_vl

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    def rotate(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cos, sin = cos.unsqueeze(-2).double(), sin.unsqueeze(-2).double()
        return tuple(x * cos + modeling_qwen2_vl.rotate_half(x) * sin for x in (q, k))

    norms = (
        modeling_llama.LlamaRMSNorm,
        modeling_qwen2_vl.Qwen2VLRMSNorm,
        modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm,
        modeling_qwen3_vl.Qwen3VLTextRMSNorm,
    )
    for norm_class in norms:
        monkeypatch.setattr(norm_class, "forward", norm)
    for module in (modeling_qwen2_vl, modeling_qwen2_5_vl, modeling_qwen3_vl):
        monkeypatch.setattr(module, "apply_rotary_pos_emb_vision", rotate)


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


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
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
