"""Skip-layer guidance of Stable Diffusion 3.5, against the library's own pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline

from noisesmith.pipeline.config import GeneratorConfig
from noisesmith.pipeline.cost.generator import generate_cost
from noisesmith.pipeline.generators import find_generator, load_generator, model_parts, part_without_weights

PROMPTS = ["a cat and a red car", "a dog"]
STEPS = 6
SKIPPING = {"layers": [1], "scale": 2.0, "start": 0.01, "stop": 0.5}
PIPELINE_OPTIONS = {
    "skip_guidance_layers": [1],
    "skip_layer_guidance_scale": 2.0,
    "skip_layer_guidance_start": 0.01,
    "skip_layer_guidance_stop": 0.5,
}


def _config(families: Mapping[str, Path], **changes: Any) -> GeneratorConfig:
    fields = {"model": str(families["sd3"]), "scheduler": "flow_euler", "steps": STEPS, "guidance_scale": 4.0}
    return GeneratorConfig.model_validate(fields | changes)


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


def test_skip_layer_guidance_is_the_pipelines_own(families: Mapping[str, Path]) -> None:
    generator = load_generator(find_generator(_config(families, skip_layer_guidance=SKIPPING)), "cpu")
    noise = torch.randn(2, *generator.spec.shape, generator=torch.Generator().manual_seed(0))
    ours = generator.sample(PROMPTS, noise, STEPS)
    pipe = StableDiffusion3Pipeline.from_pretrained(families["sd3"])
    pipe.set_progress_bar_config(disable=True)
    options = {"latents": noise, "num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "latent"}
    assert _difference(ours, pipe(PROMPTS, **options, **PIPELINE_OPTIONS).images) < 1e-5
    assert _difference(ours, pipe(PROMPTS, **options).images) > 1e-4


def test_its_further_passes_are_counted_where_it_applies(families: Mapping[str, Path]) -> None:
    """After the first of six steps and before the fourth."""
    flops = []
    for config in (_config(families, skip_layer_guidance=SKIPPING), _config(families)):
        found = find_generator(config)
        parts = {name: part_without_weights(found, name) for name in model_parts(found)}
        flops.append(generate_cost(found, parts, 2).flops)
    with_skipping, without = flops
    assert 0 < with_skipping - without < without
