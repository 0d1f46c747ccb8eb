"""The scorer worker: decodes, scores and differentiates z_0, and renders the images that are written."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from noisesmith.actors.packs import Located, Position, pack_files, pack_tensors, unpack_tensor
from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import find_generator, load_decoder
from noisesmith.pipeline.models.runtime import device_for, memory_guard, threads_for
from noisesmith.pipeline.scorers import Judge, Trial, find_judge, find_scorer, load_judge, load_scorer
from noisesmith.pipeline.search.render import Verdicts, render
from noisesmith.pipeline.search.score import score
from noisesmith.pipeline.search.tasks import ScoreTask


@dataclass(frozen=True)
class ScorerInfo:
    """What a scorer has loaded."""

    id: str
    revision: str


@dataclass
class ScoreOrder:
    """One row of a call: its task, and where its z_0 lies."""

    task: ScoreTask
    latents: Located


@dataclass
class RenderOrder:
    """One row of a call: its prompt, and where z_0 of its first and of its kept image lie."""

    prompt: str
    first: Located
    kept: Located


@dataclass(frozen=True)
class ScoreReport:
    """What the driver learns of a call: each row's score, and the position of its gradient if any was asked for."""

    seconds: float
    scores: list[float]
    gradients: list[Position] | None


@dataclass(frozen=True)
class RenderReport:
    """What the driver learns of a call: the positions of each row's first and kept PNG, and the judges' scores."""

    seconds: float
    pictures: list[tuple[Position, Position]]
    judges: list[Verdicts]


@ray.remote
class ScorerActor:
    """Keeps no row state. Images leave it as PNG bytes, two per row, once its search has ended."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def load(self) -> Loaded[ScorerInfo]:
        """Load the decoder, the scorer and the judges, and try these two on one image.

        Raises:
            UserError: one cannot be loaded, or cannot score an image.
        """
        placement = self._config.scorers
        torch.set_num_threads(threads_for(placement.num_cpus))
        device = device_for(placement.num_gpus)
        clamp = placement.readout != "reference"
        generator = find_generator(self._config.generators)
        self._decoder = load_decoder(generator, device, clamp=clamp)
        dtype = self._decoder.vae.dtype
        trial = Trial(generator.spec.height, generator.spec.width, dtype, self._config.optimizer.uses_gradient)
        self._scorer = load_scorer(find_scorer(placement), device, trial)
        self._judges: dict[str, Judge] = {}
        for judge in self._config.judges:
            self._judges[judge.name] = load_judge(find_judge(judge, placement), device, trial)
        return Loaded.here(ScorerInfo(self._scorer.id, self._scorer.revision))

    @ray.method(num_returns=2)
    def score(self, encoded: bytes, *packs: NDArray[np.float32]) -> tuple[ScoreReport, NDArray[np.float32] | None]:
        """Score a batch of z_0, each ``[C, h, w]`` float32.

        Args:
            encoded: a pickled list of :class:`ScoreOrder`.

        Raises:
            MemoryExhausted: the batch is too large for the device.

        Returns:
            the report, and the pack of the rows' ∂log s/∂z_0 ``[C, h, w]``.
        """
        started = time.perf_counter()
        orders: list[ScoreOrder] = pickle.loads(encoded)
        tasks = [order.task for order in orders]
        batch = torch.stack([unpack_tensor(packs, order.latents) for order in orders])
        with memory_guard():
            scored = score(self._decoder, self._scorer, tasks, batch)
        gradients = None
        positions: list[Position] | None = None
        if scored.log_gradients is not None:
            gradients, positions = pack_tensors(list(scored.log_gradients))
        return ScoreReport(time.perf_counter() - started, scored.scores, positions), gradients

    @ray.method(num_returns=2)
    def render(self, encoded: bytes, *packs: NDArray[np.float32]) -> tuple[RenderReport, NDArray[np.uint8]]:
        """Make the PNG files of rows whose search has ended, and let the judges look at them.

        Args:
            encoded: a pickled list of :class:`RenderOrder`.

        Raises:
            MemoryExhausted: the batch is too large for the device.

        Returns:
            the report, and the pack of the rows' PNG files.
        """
        started = time.perf_counter()
        orders: list[RenderOrder] = pickle.loads(encoded)
        prompts = [order.prompt for order in orders]
        latents = [(unpack_tensor(packs, order.first), unpack_tensor(packs, order.kept)) for order in orders]
        with memory_guard():
            rendered = render(self._decoder, self._judges, prompts, latents)
        files: list[bytes] = []
        for row in rendered:
            files += [row.first, row.kept]
        pictures, positions = pack_files(files)
        pairs = list(zip(positions[::2], positions[1::2], strict=True))
        return RenderReport(time.perf_counter() - started, pairs, [row.judges for row in rendered]), pictures
