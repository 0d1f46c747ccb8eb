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
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.models.runtime import device_for, memory_guard, threads_for
from noisesmith.pipeline.search.propose import Rounds
from noisesmith.pipeline.search.row import GenerateTask, Step


@dataclass(frozen=True)
class GeneratorInfo:
    id: str
    revision: str
    spec: LatentSpec


@dataclass(frozen=True)
class GenerateReport:
    seconds: float
    steps: list[Step]


@ray.remote
class GeneratorActor:
    """Keeps no row state: every call carries what it needs, so a dead actor costs one call."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def load(self) -> Loaded:
        placement = self._config.generators
        torch.set_num_threads(threads_for(placement.num_cpus))
        self._rounds = Rounds(self._config, device_for(placement.num_gpus))
        generator = self._rounds.generator
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
        inputs = [(_tensor(next(rest)), _tensor(next(rest))) if task.key.round else None for task in tasks]
        with memory_guard():
            turned = self._rounds.turn(tasks, inputs)
        report = GenerateReport(time.perf_counter() - started, turned.steps)
        return report, *(memory.numpy() for memory in turned.memories), *(latent.numpy() for latent in turned.latents)


def _tensor(array: np.ndarray | None) -> Any:
    """A writable tensor of an array that may lie read-only in the object store."""
    return None if array is None else torch.tensor(array)
