"""The generator worker: moves the noise of a batch of rows, and denoises it into z_0."""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass, field

import numpy as np
import ray
from numpy.typing import NDArray

from noisesmith.actors.packs import Located, Position, pack_tensors, unpack_tensor
from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import LatentSpec, find_generator, load_generator
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.runtime import ExclusiveUse, device_for, import_libraries, memory_guard, threads_for
from noisesmith.pipeline.search.generate import generate
from noisesmith.pipeline.search.tasks import GenerateTask, ImageRecord, Slope, Start


@dataclass(frozen=True)
class GeneratorInfo:
    """What a generator has loaded."""

    id: str
    revision: str
    spec: LatentSpec


@dataclass
class GenerateOrder:
    """One row of a call: its task, and where the optimizer state and the gradients lie that it starts from.

    ``paused`` is where the state of its sampling lies, for a probe that goes on.
    """

    task: GenerateTask
    state: Located | None = None
    slopes: tuple[Slope[Located], ...] = ()
    paused: Located | None = None


@dataclass(frozen=True)
class GenerateReport:
    """What the driver learns of a call.

    ``seconds`` is how long it used the model; ``states`` and ``latents`` are the positions of the rows' tensors, and
    ``paused`` those of where probes have stopped.
    """

    seconds: float
    records: list[ImageRecord]
    states: list[Position]
    latents: list[Position]
    paused: list[Position] = field(default_factory=list)


@ray.remote
class GeneratorActor:
    """Keeps no row state: every call carries what it needs, so the death of a worker costs one call."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._models = threading.Lock()
        self._loaded: Loaded[GeneratorInfo] | None = None

    def load(self) -> Loaded[GeneratorInfo]:
        """Load the diffusion model, unless it is loaded."""
        if self._loaded is None:
            placement = self._config.generators
            import_libraries()
            torch.set_num_threads(threads_for(placement.num_cpus))
            generator = load_generator(find_generator(placement), device_for(placement.num_gpus))
            self._generator = generator
            self._loaded = Loaded.here(GeneratorInfo(generator.id, generator.revision, generator.spec))
        return self._loaded

    def search_by(self, config: RunConfig) -> None:
        """Work for another run from now on, which has the same ``generators``."""
        self._config = config

    @ray.method(num_returns=2)
    def generate(self, encoded: bytes, *packs: NDArray[np.float32]) -> tuple[GenerateReport, NDArray[np.float32]]:
        """Denoise a batch whose rows may be at different rounds.

        Args:
            encoded: a pickled list of :class:`GenerateOrder`.

        Raises:
            MemoryExhausted: the batch is too large for the device.

        Returns:
            the report, and the pack of the rows' new optimizer states ``[1 + K, C, H, W]``, z_0 ``[C, H, W]`` and,
            where probes have stopped, ``[1 + H, C, H, W]``. They share one pack because every further object costs the
            driver more than reading all of them costs a worker.
        """
        use = ExclusiveUse(self._models)
        orders: list[GenerateOrder] = pickle.loads(encoded)
        tasks = [order.task for order in orders]
        starts = [_start(order, packs) for order in orders]
        with memory_guard():
            made = generate(self._config.optimizer, self._generator, tasks, starts, use)
        paused = [] if made.paused is None else list(made.paused)
        pack, positions = pack_tensors([*made.states, *made.latents, *paused])
        rows = len(orders)
        states, latents, stopped = positions[:rows], positions[rows : 2 * rows], positions[2 * rows :]
        return GenerateReport(use.seconds, made.records, states, latents, stopped), pack


def _start(order: GenerateOrder, packs: tuple[NDArray[np.float32], ...]) -> Start[torch.Tensor] | None:
    if order.state is None:
        return None
    slopes = tuple(Slope(unpack_tensor(packs, slope.log_gradient), slope.factor) for slope in order.slopes)
    paused = None if order.paused is None else unpack_tensor(packs, order.paused)
    return Start(unpack_tensor(packs, order.state), slopes, paused)
