"""The shipped models: loaded by their own classes, and as good as the model card says, on fresh seeds."""

import json
import random
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    CLIPTokenizer,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2VLForConditionalGeneration,
)

from noisesmith.pipeline.config import ScorerConfig
from noisesmith.pipeline.embedded import MODELS, NAMES, WEIGHTS, newest, versions, weights
from noisesmith.pipeline.embedded.geometry import truth
from noisesmith.pipeline.embedded.grammar import (
    ANIMALS,
    COLOURS,
    GRAMMARS,
    JOINS,
    NOUNS,
    WEARABLES,
    Phrase,
    ScenePrompt,
    parse,
    prompts,
)
from noisesmith.pipeline.embedded.judge import Judge
from noisesmith.pipeline.embedded.training.architectures import QUESTION
from noisesmith.pipeline.embedded.training.data import pictures
from noisesmith.pipeline.embedded.training.evaluate import Models, load, on_renders, paint
from noisesmith.pipeline.embedded.training.questions import caption
from noisesmith.pipeline.embedded.training.scenes import sample
from noisesmith.pipeline.scorers import find_scorer, load_scorer


@lru_cache
def models() -> Models:
    return load(WEIGHTS)


def judge() -> Judge:
    return models().judges["judge"]


def pipe() -> StableDiffusionPipeline:
    return models().pipe


def test_they_are_safetensors_only_and_under_40_megabytes() -> None:
    root = Path(__file__).parents[2]
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt", ".jinja", ".md"}
    assert sum(f.stat().st_size for f in root.rglob("*.safetensors") if f.is_file() and ".venv" not in f.parts) < 40e6


def test_an_unknown_name_is_refused() -> None:
    assert all(weights(name).is_dir() for name in MODELS)
    with pytest.raises(ValueError, match="no built-in model 'sdxl'"):
        weights("sdxl")


def test_every_built_in_name_has_weights_and_versions_of_one_model_have_one_name() -> None:
    assert {folder for names in NAMES.values() for folder in names.values()} == set(MODELS)
    assert versions("judges", "embedded/judge") == ["embedded/judge", "embedded/v1/judge"]
    assert versions("scorers", "embedded/v1") == ["embedded", "embedded/v1"]
    assert versions("scorers", "openai/clip") == []
    assert newest("embedded/v1/judge") == "embedded/judge"
    assert newest("embedded/qwen") == "embedded/qwen"
    assert newest("my/embedded/v1") == "my/embedded/v1"


def test_the_diffusion_model_is_a_stable_diffusion_pipeline() -> None:
    loaded = pipe()
    assert isinstance(loaded.vae, AutoencoderKL)
    assert isinstance(loaded.unet, UNet2DConditionModel)
    assert isinstance(loaded.text_encoder, CLIPTextModel)
    assert isinstance(loaded.scheduler, DDIMScheduler)
    assert {p.dtype for m in (loaded.vae, loaded.unet, loaded.text_encoder) for p in m.parameters()} == {torch.float32}
    image = loaded("a cat and a red car", height=64, width=64, num_inference_steps=3).images[0]
    assert image.size == (64, 64)


def test_its_tokenizer_gives_the_same_ids_in_every_class() -> None:
    """Training scripts read it as a CLIPTokenizer, pipelines as what the folder says."""
    folder = weights("sd") / "tokenizer"
    readers = [pipe().tokenizer, CLIPTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)]
    readers.append(CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), **special_tokens(folder)))
    first = AutoTokenizer.from_pretrained(weights("v1/sd") / "tokenizer")
    asked = [str(prompt) for grammar in GRAMMARS for prompt in islice(prompts(grammar, 7), 300)]
    for text in (*asked, *NOUNS, *COLOURS, *JOINS, "a", "an", ""):
        expected = first(text).input_ids
        assert first.unk_token_id not in expected
        assert [reader(text).input_ids for reader in readers] == [expected] * 4, text
    assert pipe().tokenizer.unk_token_id in pipe().tokenizer("a zebra").input_ids


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that a tokenizer's folder states."""
    stated = json.loads((folder / "tokenizer_config.json").read_text())
    return {name: token for name, token in stated.items() if name.endswith("_token")}


def test_pieces_of_unknown_words_are_embedded_as_an_unknown_word() -> None:
    tokenizer = pipe().tokenizer
    table = pipe().text_encoder.get_input_embeddings().weight
    assert len(table) == len(tokenizer)
    unknown = table[tokenizer.unk_token_id]
    pieces = [number for word, number in tokenizer.get_vocab().items() if not word.endswith("</w>")]
    assert all(torch.equal(table[number], unknown) for number in pieces if number > 3)


def test_latents_of_scenes_have_unit_variance() -> None:
    rng = random.Random(11)
    images = pictures([sample(rng) for _ in range(32)]) * 2 - 1
    with torch.no_grad():
        latents = pipe().vae.encode(images).latent_dist.mode() * pipe().vae.config.scaling_factor
    assert latents.shape == (32, 16, 8, 8)
    assert float(latents.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("name", "folder", "family"),
    [
        ("embedded", "vlm", LlavaForConditionalGeneration),
        ("embedded/qwen", "qwen", Qwen2VLForConditionalGeneration),
    ],
)
def test_a_scorer_answers_yes_or_no(name: str, folder: str, family: type[PreTrainedModel]) -> None:
    assert type(models().scorers[folder]) is family
    assert {p.dtype for p in models().scorers[folder].parameters()} == {torch.float32}
    rng = random.Random(5)
    scenes = [sample(rng, "above") for _ in range(8)]
    asked = [str(caption(scene, rng)) for scene in scenes]
    scores = {}
    for readout in ("yes", "yes_no"):
        scorer = load_scorer(find_scorer(ScorerConfig(model=name, readout=readout)), "cpu")
        with torch.no_grad():
            scores[readout] = scorer.log_scores(asked, pictures(scenes)).exp()
    assert scores["yes_no"].mean() > 0.9
    assert (scores["yes"] / scores["yes_no"]).min() > 0.98  # P("Yes") + P("No") among all words


@pytest.mark.parametrize("name", ["vlm", "qwen"])
def test_a_scorer_knows_every_word_of_its_chat(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(weights(name))
    template = (weights(name) / "chat_template.jinja").read_text()
    parts = [{"type": "image"}, {"type": "text", "text": QUESTION.format("a cat")}]
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], chat_template=template, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.unk_token_id not in ids


def test_scorers_and_detectors_answer_fresh_renders() -> None:
    figures = on_renders(models(), seed=2024, count=250)
    for name in ("judge", "detector"):
        assert figures[f"{name} balanced accuracy"] > 0.98
        assert figures[f"{name} finds exactly the scene's objects"] > 0.95
    for name in ("vlm", "qwen"):
        assert figures[f"{name} balanced accuracy"] > 0.95


def test_the_judge_reads_pil_images_and_tensors_alike() -> None:
    rng = random.Random(3)
    scene = sample(rng, "and")
    images = pictures([scene])
    pil = Image.fromarray((images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    prompt = f"a {scene.items[0].noun} and a {scene.items[1].noun}"
    assert parse(prompt) is not None
    assert judge().faithful(pil, prompt) == judge().faithful(images[0], prompt) == 1.0
    assert judge().faithful(pil, "a photo of the sea") is None


def test_first_images_show_something_named() -> None:
    asked: list[ScenePrompt] = []
    for text in ("a cat and a red car", "a dog under a blue clock", "a lion with a crown", "a frog on a bench"):
        prompt = parse(text)
        assert prompt is not None
        asked.append(prompt)
    found = judge().detect(paint(pipe(), asked * 2, seed=5))
    seen = 0
    for detections, prompt in zip(found, asked * 2, strict=True):
        nouns = {phrase.noun for phrase in prompt.phrases}
        seen += any(detection.noun in nouns for detection in detections)
    assert seen >= 7  # 0.97 of 256 images


def test_half_of_first_images_show_what_an_animal_wears() -> None:
    asked = [ScenePrompt(Phrase(animal), "with", Phrase(thing)) for animal in ANIMALS for thing in WEARABLES]
    found = judge().detect(paint(pipe(), asked, seed=5))
    shown = [truth(detections, prompt) for detections, prompt in zip(found, asked, strict=True)]
    assert sum(map(bool, shown)) >= len(asked) / 2
