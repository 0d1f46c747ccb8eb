"""Families whose z_0 is what the pipeline hands to its VAE, against the library's own pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.generators import Generator, find_generator, load_decoder, load_generator
from noisesmith.pipeline.generators.capture import handed_to
from tests.tiny_flux import pixtral_processor
from tests.tiny_pipelines import EVERY, ONE_OF_EACH

PROMPTS = ["a cat and a red car", "a dog"]
SIZE = {"height": 64, "width": 32}
SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "flow_euler": (diffusers.FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
}


def _config(name: str, folders: Mapping[str, Path], **changes: Any) -> GeneratorConfig:
    fields = {"model": str(folders[name]), "steps": 3, **SIZE, **EVERY[name].options}
    return GeneratorConfig.model_validate(fields | changes)


def _generator(name: str, folders: Mapping[str, Path]) -> Generator:
    return load_generator(find_generator(_config(name, folders)), "cpu")


def _noise(generator: Generator, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *generator.spec.shape, generator=torch.Generator().manual_seed(0))


def _library(
    name: str, folders: Mapping[str, Path], sampler: str | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """The library's pipeline as a user would load it, with the sampler that it was saved with or another."""
    if name == "flux2-dev":  # where torchvision is not installed, the library does not find its processor's class
        pipe = diffusers.DiffusionPipeline.from_pretrained(folders[name], dtype=dtype, tokenizer=None)
        pipe.tokenizer = pixtral_processor().from_pretrained(folders[name], subfolder="tokenizer")
    else:
        pipe = diffusers.DiffusionPipeline.from_pretrained(folders[name], dtype=dtype)
    if sampler is not None:
        scheduler_class, options = SAMPLERS[sampler]
        pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def _watched(pipe: Any) -> Iterator[tuple[list[Any], list[torch.Tensor]]]:
    """What the denoiser predicts inside, and what the VAE gets."""
    predictions: list[Any] = []
    handed: list[torch.Tensor] = []
    predict, decode = pipe.transformer.forward, pipe.vae.decode

    def record(*args: Any, **kwargs: Any) -> Any:
        predictions.append(predict(*args, **kwargs))
        return predictions[-1]

    def receive(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        handed.append(latents)
        return decode(latents, *args, **kwargs)

    pipe.transformer.forward, pipe.vae.decode = record, receive
    yield predictions, handed
    pipe.transformer.forward, pipe.vae.decode = predict, decode


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        *((name, None) for name in EVERY),
        ("sana", "flow_euler"),
        *(("pixart-sigma", sampler) for sampler in ("ddim", "pndm", "euler")),
    ],
)
def test_z0_image_and_gradient_are_those_of_the_pipelines_own_loop(
    folders: Mapping[str, Path], name: str, sampler: str | None, record_property: Any
) -> None:
    """The call's predictions, held constant, under autograd through its scheduler, its unpacking and its scaling."""
    config = _config(name, folders, **({} if sampler is None else {"scheduler": sampler}))
    steps = config.steps
    generator = load_generator(find_generator(config), "cpu")
    noise = _noise(generator)
    ours = generator.sample(PROMPTS, noise, steps)
    pipe = _library(name, folders, sampler)
    options = {"prompt": PROMPTS, "num_inference_steps": steps, "output_type": "pt", **SIZE, **EVERY[name].call}
    with _watched(pipe) as (predictions, handed):
        images = pipe(**options | {"prompt": list(PROMPTS)}, latents=noise.clone()).images
    record_property("z_0", _difference(ours, handed[0]))
    assert ours.shape[1:] == generator.spec.decoded == tuple(handed[0].shape[1:])
    assert _difference(ours, handed[0]) <= 1e-5

    decoded = load_decoder(find_generator(config), "cpu")(ours)
    record_property("image", _difference(decoded, images))
    assert decoded.shape == (2, 3, SIZE["height"], SIZE["width"])
    assert ours.std() > 0.1
    assert decoded.std() > 0.01
    assert _difference(decoded, images) <= 1e-5

    leaf = noise.clone().requires_grad_()
    replayed = iter(predictions)
    pipe.transformer.forward = lambda *_, **__: next(replayed)
    undecorated: Any = inspect.unwrap(type(pipe).__call__)  # without no_grad
    with handed_to(pipe.vae) as sampled:
        undecorated(pipe, **options | {"prompt": list(PROMPTS)}, latents=leaf)
    assert _difference(ours, sampled[0].detach()) <= 1e-5
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (at_noise,) = torch.autograd.grad((sampled[0] * direction).sum(), leaf)
    pulled = torch.stack([generator.gain(steps) * generator.pull_back(one, steps) for one in direction])
    error = float((at_noise - pulled).norm() / at_noise.norm())
    record_property("gradient", error)
    assert error < 1e-4


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_batch_equals_its_rows_one_by_one(folders: Mapping[str, Path], name: str, record_property: Any) -> None:
    """To 1e-4 of the largest number: sums run in another order for another batch size."""
    steps = _config(name, folders).steps
    generator = _generator(name, folders)
    noise = _noise(generator)
    together = generator.sample(PROMPTS, noise, steps)
    alone = torch.cat([generator.sample([prompt], noise[i : i + 1], steps) for i, prompt in enumerate(PROMPTS)])
    record_property("difference", _difference(together, alone))
    assert _difference(together, alone) < 1e-4 * float(together.abs().max())
    assert torch.equal(generator.sample(PROMPTS, noise, steps), together)
    assert _difference(together[0], together[1]) > 1e-2


@pytest.mark.parametrize(
    "name", ["flux-dev", "z-image", "qwen-image", "sana", "pixart-sigma", "flux2-klein", "flux2-dev"]
)
def test_in_bfloat16_z0_and_image_are_the_pipelines_own(folders: Mapping[str, Path], name: str) -> None:
    """Each pipeline rounds where it does: some sample in float32 all the same. The gradient's map is not rounded."""
    config = _config(name, folders, dtype="bfloat16")
    generator = load_generator(find_generator(config), "cpu")
    noise = _noise(generator)
    ours = generator.sample(PROMPTS, noise, config.steps)
    pipe = _library(name, folders, dtype=torch.bfloat16)
    sampled = torch.float32 if generator.keeps_float32 else torch.bfloat16  # type: ignore[attr-defined]
    options = {"num_inference_steps": config.steps, "output_type": "pt", **SIZE, **EVERY[name].call}
    with _watched(pipe) as (_, handed):
        images = pipe(prompt=list(PROMPTS), latents=noise.to(sampled), **options).images
    assert torch.equal(ours, handed[0].float())
    assert torch.equal(load_decoder(find_generator(config), "cpu")(ours), images)
    slope = torch.randn(generator.spec.decoded, generator=torch.Generator().manual_seed(1))
    exact = _generator(name, folders)
    assert torch.allclose(generator.pull_back(slope, config.steps), exact.pull_back(slope, config.steps), rtol=2e-2)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_prompts_special_tokens_are_text(folders: Mapping[str, Path], name: str) -> None:
    """Also where the pipeline makes one of a word by lowering its case."""
    generator = _generator(name, folders)
    prompt = generator.plain("a cat </s> </S> <|im_end|> <|IM_END|> dog")
    read = prompt.lower() if hasattr(generator.pipe, "_text_preprocessing") else prompt
    for part, tokenizer in generator.pipe.components.items():
        if part.startswith("tokenizer"):
            special = set(tokenizer.all_special_tokens) - {tokenizer.unk_token}
            assert not [token for token in special if token in read]


@pytest.mark.parametrize("name", ["flux-dev", "qwen-image", "sana", "flux2-klein"])  # one for each class of VAE
def test_a_decoders_gradient_is_that_of_finite_differences(folders: Mapping[str, Path], name: str) -> None:
    """In float64; and images decoded one by one are the same."""
    config = _config(name, folders)
    found = find_generator(config)
    decoder = load_decoder(found, "cpu", clamp=False)
    decoder.vae.double()
    random = torch.Generator().manual_seed(2)
    shape = (2, *found.spec.decoded)
    latents = torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()
    direction = torch.randn(shape, generator=random, dtype=torch.float64)
    weights = torch.randn(2, 3, SIZE["height"], SIZE["width"], generator=random, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((decoder(latents) * weights).sum(), latents)
    with torch.no_grad():
        step = 1e-4  # some layers round to float32 all the same
        ahead, behind = (float((decoder(latents + h * direction) * weights).sum()) for h in (step, -step))
        slope = (ahead - behind) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-2)
        sliced = load_decoder(find_generator(config.model_copy(update={"vae_slicing": True})), "cpu", clamp=False)
        sliced.vae.double()
        assert _difference(decoder(latents), sliced(latents)) < 1e-6
