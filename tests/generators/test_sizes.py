"""One generator makes images of several sizes, each as a generator of that size alone and as the library's pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from noisesmith.pipeline.config import GeneratorConfig, NoSearchConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import Generator, find_generator, load_decoder, load_generator
from noisesmith.pipeline.generators.capture import handed_to
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.search.generate import generate
from noisesmith.pipeline.search.tasks import GenerateTask, Start
from tests.tiny_pipelines import EVERY

PROMPTS = ["a cat and a red car", "a dog"]
STEPS = 2
SIZES = [(64, 64), (32, 64), (64, 32)]  # width and height; packed, the last two have noises of one shape
OPTIONS: dict[str, dict[str, Any]] = {"sdxl": {"scheduler": "euler"}, "sd3": {"scheduler": "flow_euler"}}


@pytest.fixture
def both(families: Mapping[str, Path], folders: Mapping[str, Path], name: str) -> Path:
    return families[name] if name in OPTIONS else folders[name]


def _config(name: str, folder: Path, **changes: Any) -> GeneratorConfig:
    options = OPTIONS[name] if name in OPTIONS else EVERY[name].options
    return GeneratorConfig.model_validate({"model": str(folder), "steps": STEPS, **options, **changes})


def _noise(generator: Generator) -> torch.Tensor:
    return torch.randn(2, *generator.spec.shape, generator=torch.Generator().manual_seed(0))


def _tasks(*sizes: tuple[int, int] | None) -> list[GenerateTask]:
    tasks = []
    for number, size in enumerate(sizes):
        tasks.append(GenerateTask("a cat", (), NoiseKey(0, f"row {number}", 0), STEPS, resolution=size))
    return tasks


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev", "sana", "aura-flow"])
def test_each_size_is_made_as_by_a_generator_of_that_size(name: str, both: Path) -> None:
    """In turns, so that nothing that one size leaves behind (text, position ids, shifts) reaches another."""
    own, other = (48, 48), (32, 48)
    if name == "sana":
        own, other = (64, 64), (32, 64)
    config = _config(name, both, width=own[0], height=own[1])
    generator = load_generator(find_generator(config), "cpu")
    decoder = load_decoder(find_generator(config), "cpu")
    generator.sample(PROMPTS, _noise(generator), STEPS)
    for width, height in (other, own):
        alone = load_generator(find_generator(_config(name, both, width=width, height=height)), "cpu")
        sized = generator.sized((width, height))
        assert sized.spec == alone.spec
        assert (sized.spec.width, sized.spec.height) == (width, height)
        made = sized.sample(PROMPTS, _noise(sized), STEPS)
        assert made.shape[1:] == sized.spec.decoded
        assert torch.equal(made, alone.sample(PROMPTS, _noise(alone), STEPS))
        assert decoder(made).shape == (2, 3, height, width)
        slope = torch.randn(sized.spec.decoded, generator=torch.Generator().manual_seed(1))
        assert torch.equal(sized.pull_back(slope, STEPS), alone.pull_back(slope, STEPS))
    assert generator.sized(None).spec == generator.spec


@pytest.mark.parametrize("name", ["sdxl", "flux-dev"])
def test_each_size_is_what_the_librarys_pipeline_makes_of_it(name: str, both: Path) -> None:
    """Stable Diffusion XL reads the size as time ids, FLUX as position ids and in the shift of its steps."""
    config = _config(name, both)
    generator = load_generator(find_generator(config.model_copy(update={"width": 64, "height": 64})), "cpu")
    pipe = diffusers.DiffusionPipeline.from_pretrained(both)
    pipe.set_progress_bar_config(disable=True)
    call = {"guidance_scale": config.guidance_scale, "num_inference_steps": STEPS}
    for width, height in SIZES:
        sized = generator.sized((width, height))
        noise = _noise(sized)
        ours = sized.sample(PROMPTS, noise, STEPS)
        options = {"prompt": list(PROMPTS), "latents": noise, "width": width, "height": height, **call}
        if name == "sdxl":
            theirs = pipe(**options, output_type="latent").images
        else:
            with handed_to(pipe.vae) as handed:
                pipe(**options, output_type="pt")
            theirs = handed[0]
        assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


@pytest.mark.parametrize("name", ["flux-dev", "qwen-image", "ovis-image"])
def test_packed_noises_of_one_shape_make_other_images_where_the_sizes_differ(name: str, both: Path) -> None:
    generator = load_generator(find_generator(_config(name, both, width=64, height=64)), "cpu")
    wide, tall = generator.sized((64, 32)), generator.sized((32, 64))
    assert wide.spec.shape == tall.spec.shape
    noise = _noise(wide)
    (made_wide, made_tall) = (one.sample(PROMPTS, noise, STEPS) for one in (wide, tall))
    assert made_wide.numel() == made_tall.numel()
    assert not torch.allclose(made_wide.flatten().sort().values, made_tall.flatten().sort().values)
    with pytest.raises(ValueError, match="a batch has images of several sizes"):
        generate(NoSearchConfig(), generator, _tasks((64, 32), (32, 64)), [None, None])


def test_a_batch_has_the_size_of_its_tasks(families: Mapping[str, Path]) -> None:
    generator = load_generator(find_generator(_config("sdxl", families["sdxl"])), "cpu")
    own = generator.spec.decoded
    assert generate(NoSearchConfig(), generator, _tasks(None, None), [None, None]).latents.shape == (2, *own)
    made = generate(NoSearchConfig(), generator, _tasks((48, 32), (48, 32)), [None, None])
    assert made.latents.shape == (2, 4, 16, 24)
    assert [record.shape for record in made.records] == [(4, 16, 24)] * 2


@pytest.mark.parametrize("name", ["sdxl", "flux-dev"])
def test_a_paused_row_of_another_size_goes_on_to_the_same_bits(name: str, both: Path) -> None:
    """It goes on after rows of other sizes were sampled, and never in a batch with one of another size."""
    generator = load_generator(find_generator(_config(name, both, width=48, height=48)), "cpu")
    starts = []
    for task in _tasks(*SIZES):
        probe = generate(NoSearchConfig(), generator, [replace(task, stop=1)], [None])
        assert probe.paused is not None
        starts.append(Start(probe.states[0], (), probe.paused[0]))
    going_on = [replace(task, rerender=True, taken=1) for task in _tasks(*SIZES)]
    for task, start, whole in reversed(list(zip(going_on, starts, _tasks(*SIZES), strict=True))):
        finished = generate(NoSearchConfig(), generator, [task], [start])
        assert torch.equal(finished.latents, generate(NoSearchConfig(), generator, [whole], [None]).latents)
        assert [record.evaluations for record in finished.records] == [STEPS - 1]
    with pytest.raises(ValueError, match="a batch has images of several sizes"):
        generate(NoSearchConfig(), generator, going_on[1:], starts[1:])


def test_the_gradients_map_of_a_probe_is_that_of_its_own_size(folders: Mapping[str, Path]) -> None:
    sizes = [(48, 32), (32, 48)]
    generator = load_generator(find_generator(_config("flux-dev", folders["flux-dev"], width=48, height=48)), "cpu")
    for stop in (None, 1):
        for width, height in sizes:
            own = _config("flux-dev", folders["flux-dev"], width=width, height=height)
            alone = load_generator(find_generator(own), "cpu")
            slope = torch.randn(alone.spec.decoded, generator=torch.Generator().manual_seed(1))
            pulled = generator.sized((width, height)).pull_back(slope, STEPS, stop)
            assert torch.equal(pulled, alone.pull_back(slope, STEPS, stop))
            assert bool(pulled.any())


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        ("sdxl", (64, 36), "height 36 is not a multiple of 8; give one such as 32"),
        ("sd3", (18, 16), "width 18 is not a multiple of 4; give one such as 16"),
        ("sd3", (16, 52), "height 52 is beyond the 48 pixels"),
        ("aura-flow", (33, 64), "cannot be run"),
    ],
)
def test_a_size_that_the_model_cannot_make_is_refused(name: str, both: Path, size: Any, problem: str) -> None:
    sizes = {} if name in OPTIONS else {"width": 64, "height": 64}
    found = find_generator(_config(name, both, **sizes))
    with pytest.raises(UserError) as refused:
        found.spec_of(size)
    assert problem in str(refused.value)
