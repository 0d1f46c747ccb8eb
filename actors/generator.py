"""The generator actor: takes any row's next round to its z_0."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import LatentSpec, find_generator, load_generator
from noisesmith.pipeline.models.runtime import device_for, memory_guard, threads_for
from noisesmith.pipeline.search.generate import generate
from noisesmith.pipeline.search.tasks import GenerateTask, ImageRecord, Start


@dataclass(frozen=True)
class GeneratorInfo:
    id: str
    revision: str
    spec: LatentSpec


@dataclass(frozen=True)
class GenerateReport:
    seconds: float
    records: list[ImageRecord]


@ray.remote
class GeneratorActor:
    """Keeps no row state: every call carries what it needs, so a dead actor costs one call."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def load(self) -> Loaded:
        placement = self._config.generators
        torch.set_num_threads(threads_for(placement.num_cpus))
        self._generator = generator = load_generator(find_generator(placement), device_for(placement.num_gpus))
        return Loaded.here(GeneratorInfo(generator.id, generator.revision, generator.spec))

    def generate(self, tasks: list[GenerateTask], *arrays: np.ndarray | None) -> tuple[Any, ...]:
        """Denoise a batch whose rows may be at different rounds.

        Args:
            arrays: memory ``[1 + K, C, H, W]`` then ∂s/∂z_0 ``[C, H, W]`` (or ``None``), float32, of each task after
                round 0, in order.

        Raises:
            MemoryExhausted: the batch is too large for the device.

        Returns:
            a report, then each row's new memory, then each row's z_0: 1 + 2B values.
        """
        started = time.perf_counter()
        rest = iter(arrays)
        starts = [Start(_tensor(next(rest)), _tensor(next(rest))) if task.key.round else None for task in tasks]
        with memory_guard():
            made = generate(self._config.optimizer, self._generator, tasks, starts)
        report = GenerateReport(time.perf_counter() - started, made.records)
        return report, *(state.numpy() for state in made.states), *(latent.numpy() for latent in made.latents)


def _tensor(array: np.ndarray | None) -> Any:
    """A writable tensor of an array that may lie read-only in the object store."""
    return None if array is None else torch.tensor(array)
