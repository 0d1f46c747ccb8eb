"""Sampling that stops part of the way, and goes on in another call, against one that is not interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from noisesmith.pipeline.config import GeneratorConfig, RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import Generator, check_probe, find_generator, load_generator
from noisesmith.pipeline.preflight import find_models
from tests.tiny_pipelines import EVERY, PIPELINES

PROMPTS = ["a cat and a red car", "a dog"]
STEPS = 5
SAMPLERS = ("ddim", "pndm", "dpmsolver++", "euler")
PAUSED = [
    *(("sd1", sampler) for sampler in SAMPLERS),
    ("sd2", "pndm"),  # predicts v
    ("sdxl", "euler"),
    ("sd3", "flow_euler"),
    *((name, None) for name in PIPELINES if name != "sana-sprint"),  # which takes one step
]


def _load(
    name: str, sampler: str | None, families: Mapping[str, Path], folders: Mapping[str, Path], **changes: Any
) -> Generator:
    if name in families:
        fields: dict[str, Any] = {"model": str(families[name]), "scheduler": sampler, "guidance_scale": 3.0}
    else:
        fields = {"model": str(folders[name]), "height": 64, "width": 32, **PIPELINES[name].options}
    config = GeneratorConfig.model_validate(fields | {"steps": STEPS} | changes)
    return load_generator(find_generator(config), "cpu")


def _noise(generator: Generator, rows: int) -> torch.Tensor:
    return torch.randn(rows, *generator.spec.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "sampler"), PAUSED)
def test_an_image_that_goes_on_equals_one_that_was_not_interrupted_bit_for_bit(
    families: Mapping[str, Path], folders: Mapping[str, Path], name: str, sampler: str | None
) -> None:
    generator = _load(name, sampler, families, folders)
    other = _noise(generator, 2)
    noise = other[:1]
    whole = generator.sample(PROMPTS[:1], noise, STEPS)
    for stop in (1, 2, STEPS - 1):
        original, paused = generator.probe(PROMPTS[:1], noise, STEPS, stop)
        assert original.shape == whole.shape
        assert not torch.equal(original, whole)
        generator.sample(PROMPTS, other, STEPS)  # what is done in between leaves no trace
        assert torch.equal(generator.finish(PROMPTS[:1], paused, STEPS, stop), whole)
    assert torch.equal(generator.sample(PROMPTS[:1], noise, STEPS), whole)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [("sd1", "pndm"), ("sd1", "dpmsolver++"), ("z-image", None), ("sana", None), ("flux-dev", None)],
)
def test_nothing_is_lost_in_half_precision(
    families: Mapping[str, Path], folders: Mapping[str, Path], name: str, sampler: str | None
) -> None:
    generator = _load(name, sampler, families, folders, dtype="bfloat16")
    noise = _noise(generator, 1)
    _, paused = generator.probe(PROMPTS[:1], noise, STEPS, 2)
    assert paused.dtype == torch.float32
    finished = generator.finish(PROMPTS[:1], paused, STEPS, 2)
    assert torch.equal(finished, generator.sample(PROMPTS[:1], noise, STEPS))


@pytest.mark.parametrize(("name", "sampler"), [("sd1", "pndm"), ("sana", None), ("flux2-klein", None)])
def test_rows_that_were_paused_together_go_on_in_any_batch(
    families: Mapping[str, Path], folders: Mapping[str, Path], name: str, sampler: str | None
) -> None:
    """To 1e-4 of the largest number: sums run in another order for another batch size."""
    generator = _load(name, sampler, families, folders)
    noise = _noise(generator, 2)
    whole = generator.sample(PROMPTS, noise, STEPS)
    _, paused = generator.probe(PROMPTS, noise, STEPS, 2)
    together = generator.finish(PROMPTS[::-1], paused.flip(0), STEPS, 2).flip(0)
    alone = torch.cat([generator.finish([prompt], paused[i : i + 1], STEPS, 2) for i, prompt in enumerate(PROMPTS)])
    for finished in (together, alone):
        assert float((finished - whole).abs().max()) < 1e-4 * float(whole.abs().max())


@pytest.mark.parametrize("name", ["z-image", "qwen-image", "sana", "pixart-sigma", "flux2-klein", "lumina2"])
def test_the_slope_of_a_probe_at_the_noise_is_that_of_the_pipeline_with_constant_predictions(
    families: Mapping[str, Path], folders: Mapping[str, Path], name: str
) -> None:
    """x_0 is affine in z_T then, so that a finite difference is exact."""
    generator = _load(name, None, families, folders)
    noise, change = _noise(generator, 2).split(1)
    transformer = generator.pipe.transformer
    predict, answers = transformer.forward, []

    def record(*args: Any, **kwargs: Any) -> Any:
        answers.append(predict(*args, **kwargs))
        return answers[-1]

    transformer.forward = record
    before, _ = generator.probe(PROMPTS[:1], noise, STEPS, 2)
    replayed = iter(answers)
    transformer.forward = lambda *_, **__: next(replayed)
    after, _ = generator.probe(PROMPTS[:1], noise + change, STEPS, 2)
    slope = torch.randn(before.shape[1:], generator=torch.Generator().manual_seed(1))
    pulled = generator.gain(STEPS, 2) * generator.pull_back(slope, STEPS, 2)
    followed = float((slope * (after - before)[0]).sum())
    assert float((pulled * change[0]).sum()) == pytest.approx(followed, rel=1e-3)


def test_a_pipeline_without_an_adapter_is_refused_before_it_is_loaded(folders: Mapping[str, Path]) -> None:
    name = "aura-flow"
    generators = {"model": str(folders[name]), "height": 64, "width": 32, **EVERY[name].options, "steps": 4}
    optimizer = {"method": "random_sampling", "probe": {"at": 0.5}}
    config = RunConfig.model_validate({"generators": generators, "optimizer": optimizer})
    with pytest.raises(UserError, match=r"optimizer\.probe: .* is a AuraFlowPipeline, .*; remove it, or use"):
        find_models(config)


def test_a_probe_that_says_nothing_of_the_noise_is_refused(tmp_path: Path, families: Mapping[str, Path]) -> None:
    """A schedule that ends in noise alone has α = 0 in its first step, and v then predicts x_0 without z_T."""
    folder = tmp_path / "sd2"
    shutil.copytree(families["sd2"], folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rescale_betas_zero_snr": True}))
    found = find_generator(GeneratorConfig(model=str(folder), steps=4, timestep_spacing="trailing"))
    check_probe(found, 2)
    with pytest.raises(UserError, match=r"optimizer\.probe\.at: with ddim .* after 1 of 4 steps does not follow z_T"):
        check_probe(found, 1)
