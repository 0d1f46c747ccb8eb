"""The scorer actor: decodes, scores and differentiates z_0; lets the judges look at finished images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import find_generator, load_decoder
from noisesmith.pipeline.images import decode_png
from noisesmith.pipeline.models.runtime import device_for, memory_guard, threads_for
from noisesmith.pipeline.scorers import find_judge, find_scorer, load_judge, load_scorer
from noisesmith.pipeline.search.score import score
from noisesmith.pipeline.search.tasks import ScoreTask


@dataclass(frozen=True)
class ScorerInfo:
    id: str
    revision: str


@dataclass(frozen=True)
class ScoreReport:
    seconds: float
    scores: list[float]


@dataclass(frozen=True)
class JudgeReport:
    seconds: float
    scores: dict[str, list[float | None]]


@ray.remote
class ScorerActor:
    """Keeps no row state. Images leave it as PNG bytes, and only where they are a row's first or best so far."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def load(self) -> Loaded:
        placement = self._config.scorers
        torch.set_num_threads(threads_for(placement.num_cpus))
        device = device_for(placement.num_gpus)
        generators, clamp = self._config.generators, placement.readout != "reference"
        self._decoder = load_decoder(find_generator(generators), device, clamp=clamp)
        self._scorer = load_scorer(find_scorer(placement), device)
        self._judges = {judge.name: load_judge(find_judge(judge, placement), device) for judge in self._config.judges}
        return Loaded.here(ScorerInfo(self._scorer.id, self._scorer.revision))

    def score(self, tasks: list[ScoreTask], *latents: np.ndarray) -> tuple[Any, ...]:
        """Score a batch of z_0, each ``[C, h, w]`` float32.

        Raises:
            MemoryExhausted: the batch is too large for the device.

        Returns:
            a report, then each row's ∂s/∂z_0 or ``None``, then each row's PNG or ``None``: 1 + 2B values.
        """
        started = time.perf_counter()
        with memory_guard():
            result = score(
                self._decoder, self._scorer, tasks, torch.stack([torch.tensor(latent) for latent in latents])
            )
        gradients = [None] * len(tasks) if result.gradients is None else [grad.numpy() for grad in result.gradients]
        return ScoreReport(time.perf_counter() - started, result.scores), *gradients, *result.pictures

    def judge(self, prompts: list[str], *pngs: bytes) -> JudgeReport:
        """Every judge's scores of finished images, one prompt each."""
        started = time.perf_counter()
        images = torch.stack([decode_png(png) for png in pngs])
        with memory_guard():
            scores = {name: judge.judge(prompts, images) for name, judge in self._judges.items()}
        return JudgeReport(time.perf_counter() - started, scores)
