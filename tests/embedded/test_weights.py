"""The shipped models: loaded by their own classes, and as good as the model card says, on fresh seeds."""

import random
from functools import lru_cache

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, LlavaForConditionalGeneration, LlavaProcessor

from noisesmith.pipeline.embedded import MODELS, weights
from noisesmith.pipeline.embedded.grammar import COLOURS, JOINS, NOUNS, ScenePrompt, parse
from noisesmith.pipeline.embedded.judge import Judge
from noisesmith.pipeline.embedded.training.architectures import QUESTION
from noisesmith.pipeline.embedded.training.data import pictures
from noisesmith.pipeline.embedded.training.evaluate import on_renders, paint
from noisesmith.pipeline.embedded.training.scenes import sample


@lru_cache
def judge() -> Judge:
    loaded: Judge = Judge.from_pretrained(weights("judge")).eval()
    return loaded


@lru_cache
def vlm() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(weights("vlm")).eval()


@lru_cache
def pipe() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(weights("sd"))
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_they_are_safetensors_only_and_under_40_megabytes() -> None:
    files = [f for f in weights("sd").parent.rglob("*") if f.is_file()]
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt", ".jinja", ".md"}
    assert sum(f.stat().st_size for f in files) < 40e6


def test_an_unknown_name_is_refused() -> None:
    assert [weights(m).name for m in MODELS] == list(MODELS)
    with pytest.raises(ValueError, match="no built-in model 'sdxl'"):
        weights("sdxl")


def test_the_diffusion_model_is_a_stable_diffusion_pipeline() -> None:
    loaded = pipe()
    assert isinstance(loaded.vae, AutoencoderKL)
    assert isinstance(loaded.unet, UNet2DConditionModel)
    assert isinstance(loaded.text_encoder, CLIPTextModel)
    assert isinstance(loaded.scheduler, DDIMScheduler)
    assert {p.dtype for m in (loaded.vae, loaded.unet, loaded.text_encoder) for p in m.parameters()} == {torch.float32}
    image = loaded("a cat and a red car", height=64, width=64, num_inference_steps=3).images[0]
    assert image.size == (64, 64)


def test_its_tokenizer_knows_every_word() -> None:
    tokenizer = pipe().tokenizer
    for text in (*NOUNS, *COLOURS, *JOINS, "a", "an"):
        ids = tokenizer(text).input_ids
        assert len(ids) == 3, text
        assert tokenizer.unk_token_id not in ids, text
    assert tokenizer.unk_token_id in tokenizer("a unicorn").input_ids


def test_latents_of_scenes_have_unit_variance() -> None:
    rng = random.Random(11)
    images = pictures([sample(rng) for _ in range(32)]) * 2 - 1
    with torch.no_grad():
        latents = pipe().vae.encode(images).latent_dist.mode() * pipe().vae.config.scaling_factor
    assert latents.shape == (32, 16, 8, 8)
    assert float(latents.std()) == pytest.approx(1, abs=0.1)


def test_the_vlm_is_a_llava_with_its_processor() -> None:
    model, processor = vlm(), LlavaProcessor.from_pretrained(weights("vlm"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION.format("a cat")}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == 'USER: <image>\nDoes this figure show "a cat"? Please answer yes or no. ASSISTANT:'
    batch = processor(images=[Image.new("RGB", (64, 64))], text=[text], return_tensors="pt")
    assert processor.tokenizer.unk_token_id not in batch.input_ids
    with torch.no_grad():
        chances = model(**batch).logits[0, -1].softmax(-1)
    yes, no = (processor.tokenizer.convert_tokens_to_ids(w) for w in ("Yes", "No"))
    assert float(chances[yes] + chances[no]) > 0.98


def test_scorer_and_judge_answer_fresh_renders() -> None:
    figures = on_renders(vlm(), judge(), seed=2024, count=250)
    assert figures["judge balanced accuracy"] > 0.99
    assert figures["judge finds exactly the scene's objects"] > 0.98
    assert figures["vlm balanced accuracy"] > 0.95  # 0.974 on 1,000 scenes


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
