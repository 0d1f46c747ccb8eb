"""The scorer worker: decodes, scores and differentiates z_0, and lets the judges look at finished images."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from noisesmith.actors.packs import Located, Position, pack_files, pack_tensors, unpack_file, unpack_tensor
from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.generators import find_generator, load_decoder
from noisesmith.pipeline.images import decode_png
from noisesmith.pipeline.models.runtime import device_for, memory_guard, threads_for
from noisesmith.pipeline.scorers import Judge, Trial, find_judge, find_scorer, load_judge, load_scorer
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
class JudgeOrder:
    """One image of a call: its prompt, and where its PNG lies."""

    prompt: str
    picture: Located


@dataclass(frozen=True)
class ScoreReport:
    """What the driver learns of a call: each row's score, and the positions of its gradient and of its PNG.

    No row has a gradient if none was asked for; a row has a PNG only where its image becomes the kept one.
    """

    seconds: float
    scores: list[float]
    gradients: list[Position] | None
    pictures: list[Position | None]


@dataclass(frozen=True)
class JudgeReport:
    """Every judge's scores of the images of a call, by the judge's name."""

    seconds: float
    scores: dict[str, list[float | None]]


@ray.remote
class ScorerActor:
    """Keeps no row state. Images leave it as PNG bytes, and only where they are a row's first or best so far."""

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

    @ray.method(num_returns=3)
    def score(
        self, encoded: bytes, *packs: NDArray[np.float32]
    ) -> tuple[ScoreReport, NDArray[np.float32] | None, NDArray[np.uint8] | None]:
        """Score a batch of z_0, each ``[C, h, w]`` float32.

        Args:
            encoded: a pickled list of :class:`ScoreOrder`.

        Raises:
            MemoryExhausted: the batch is too large for the device.

        Returns:
            the report, the pack of the rows' ∂log s/∂z_0 ``[C, h, w]``, and the pack of their PNG files.
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
        pictures, picture_positions = pack_files(scored.pictures)
        report = ScoreReport(time.perf_counter() - started, scored.scores, positions, picture_positions)
        return report, gradients, pictures

    def judge(self, encoded: bytes, *packs: NDArray[np.uint8]) -> JudgeReport:
        """Every judge's scores of finished images; ``encoded`` is a pickled list of :class:`JudgeOrder`."""
        started = time.perf_counter()
        orders: list[JudgeOrder] = pickle.loads(encoded)
        prompts = [order.prompt for order in orders]
        images = torch.stack([decode_png(unpack_file(packs, order.picture)) for order in orders])
        with memory_guard():
            scores = {name: judge.judge(prompts, images) for name, judge in self._judges.items()}
        return JudgeReport(time.perf_counter() - started, scores)
