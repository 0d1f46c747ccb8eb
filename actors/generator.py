"""The generator actor: takes any row's next round to its z_0."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from pipeline.config import RunConfig
from pipeline.generators import LatentSpec, load_generator
from pipeline.optimizers import build_optimizer
from pipeline.search import GenerateTask, Step, device_for, next_noise


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

    def load(self) -> GeneratorInfo:
        placement = self._config.generators
        torch.set_num_threads(int(placement.num_cpus))
        self._generator = load_generator(placement, device_for(placement.num_gpus))
        self._optimizer = build_optimizer(self._config.optimizer)
        return GeneratorInfo(self._generator.id, self._generator.revision, self._generator.spec)

    def generate(self, tasks: list[GenerateTask], *arrays: np.ndarray | None) -> tuple[Any, ...]:
        """Denoise a batch whose rows may be at different rounds.

        Args:
            arrays: z_T then ∂s/∂z_0 of each task after round 0, in order; each ``[C, H, W]`` float32.

        Returns:
            a report, then each row's new z_T, then each row's z_0: 1 + 2B values.
        """
        started = time.perf_counter()
        shape = self._generator.spec.shape
        inputs = iter(arrays)
        noises, steps = [], []
        for task in tasks:
            noise, gradient = (_tensor(next(inputs)), _tensor(next(inputs))) if task.key.round else (None, None)
            proposed, step = next_noise(self._optimizer, task, shape, self._generator.gain, noise, gradient, len(tasks))
            noises.append(proposed)
            steps.append(step)
        latents = self._generator.sample([task.prompt for task in tasks], torch.stack(noises))
        report = GenerateReport(time.perf_counter() - started, steps)
        return report, *(noise.numpy() for noise in noises), *(latent.numpy() for latent in latents)


def _tensor(array: np.ndarray | None) -> torch.Tensor | None:
    """A writable tensor of an array that may lie read-only in the object store."""
    return None if array is None else torch.tensor(array)
