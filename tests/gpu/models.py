"""What the tests on a GPU share: models from a config, and how far two results are apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisesmith.pipeline.config import GeneratorConfig, ScorerConfig
from noisesmith.pipeline.generators import Decoder, Generator, find_generator, load_decoder, load_generator
from noisesmith.pipeline.scorers import ImageScorer, find_scorer, load_scorer

PROMPTS = ["a cat and a red car", "a dog"]
STEPS = 4


def generator_config(folder: Path, **options: Any) -> GeneratorConfig:
    flow = "sd3" in folder.name
    return GeneratorConfig(
        model=str(folder),
        steps=STEPS,
        guidance_scale=3.0,
        scheduler="flow_euler" if flow else "ddim",
        **options,
    )


def load(folder: Path, device: str, **options: Any) -> Generator:
    return load_generator(find_generator(generator_config(folder, **options)), device)


def decoder(folder: Path, device: str, **options: Any) -> Decoder:
    return load_decoder(find_generator(generator_config(folder, **options)), device)


def scorer(folder: Path, device: str, dtype: str) -> ImageScorer:
    return load_scorer(find_scorer(ScorerConfig(model=str(folder), dtype=dtype)), device)


def noise(generator: Generator, rows: int = len(PROMPTS)) -> Tensor:
    """The same first noises on every machine: drawn on the CPU."""
    return torch.randn(rows, *generator.spec.shape, generator=torch.Generator().manual_seed(0))


def distance(found: Tensor, expected: Tensor) -> float:
    """How far two tensors are apart, relative to the size of the expected one."""
    difference = found.detach().double().cpu() - expected.detach().double().cpu()
    return float(difference.norm() / expected.detach().double().cpu().norm())
