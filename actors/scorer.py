"""The scorer worker: decodes, scores and differentiates z_0, and renders the images that are written."""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass
from itertools import islice

import numpy as np
import ray
from numpy.typing import NDArray

from noisesmith.actors.packs import Located, Position, pack_files, pack_tensors, unpack_tensor
from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.runtime import ExclusiveUse, device_for, import_libraries, memory_guard, threads_for
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.render import Verdicts, render
from noisesmith.pipeline.search.score import score
from noisesmith.pipeline.search.scoring import load_scoring
from noisesmith.pipeline.search.tasks import ScoreTask


@dataclass(frozen=True)
class ScorerInfo:
    """What a scorer has loaded: ids and revisions of the members of its group, in their order."""

    ids: tuple[str, ...]
    revisions: tuple[str, ...]


@dataclass
class ScoreOrder:
    """One row of a call: its task, and where its z_0 lies."""

    task: ScoreTask
    latents: Located


@dataclass
class RenderOrder:
    """One row of a call: its prompt, and where z_0 of its first, its kept and its other images to write lie."""

    prompt: str
    latents: list[Located]


@dataclass(frozen=True)
class ScoreReport:
    """What the driver learns of a call: what the group says of each row, and where its gradient lies in the pack.

    ``seconds`` is how long the call used the models.
    """

    seconds: float
    opinions: list[Opinion[Position]]


@dataclass(frozen=True)
class RenderReport:
    """What the driver learns of a call: the positions of each row's PNG files, and the judges' scores.

    ``seconds`` is how long the call used the models. ``pictures`` has as many per row as the order, in the same
    sequence.
    """

    seconds: float
    pictures: list[list[Position]]
    judges: list[Verdicts]


@ray.remote
class ScorerActor:
    """Keeps no row state. The images to write leave it as PNG bytes, once a row's search has ended.

    Args:
        group: index of the group of scorers that it holds. Those of the first one hold the judges and render.
    """

    def __init__(self, config: RunConfig, group: int) -> None:
        self._config = config
        self._index = group
        self._models = threading.Lock()
        self._loaded: Loaded[ScorerInfo] | None = None

    def load(self) -> Loaded[ScorerInfo]:
        """Load the decoder, the scorers and the judges, and try these two on one image, unless they are loaded.

        Raises:
            UserError: one cannot be loaded, or cannot score an image.
        """
        if self._loaded is None:
            placement = self._config.groups[self._index][0]
            import_libraries()
            torch.set_num_threads(threads_for(placement.num_cpus))
            self._held = load_scoring(self._config, self._index, device_for(placement.num_gpus))
            scorers = [member.scorer for member in self._held.group.members]
            ids = tuple(scorer.id for scorer in scorers)
            self._loaded = Loaded.here(ScorerInfo(ids, tuple(scorer.revision for scorer in scorers)))
        return self._loaded

    @ray.method(num_returns=2)
    def score(self, encoded: bytes, *packs: NDArray[np.float32]) -> tuple[ScoreReport, NDArray[np.float32] | None]:
        """Score a batch of z_0, each ``[C, h, w]`` float32.

        Args:
            encoded: a pickled list of :class:`ScoreOrder`.

        Raises:
            MemoryExhausted: the batch is too large for the device.

        Returns:
            the report, and the pack of the rows' gradients ``[C, h, w]``, if any was asked for.
        """
        use = ExclusiveUse(self._models)
        orders: list[ScoreOrder] = pickle.loads(encoded)
        tasks = [order.task for order in orders]
        batch = torch.stack([unpack_tensor(packs, order.latents) for order in orders])
        with memory_guard():
            opinions = score(self._held.decoder, self._held.group, tasks, batch, use)
        gradients, located = _pack_gradients(opinions)
        return ScoreReport(use.seconds, located), gradients

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
        use = ExclusiveUse(self._models)
        orders: list[RenderOrder] = pickle.loads(encoded)
        prompts = [order.prompt for order in orders]
        latents = [[unpack_tensor(packs, located) for located in order.latents] for order in orders]
        with memory_guard():
            rendered = render(self._held.decoder, self._held.judges, prompts, latents, use)
        files: list[bytes] = []
        for row in rendered:
            files += row.pictures
        pack, positions = pack_files(files)
        remaining = iter(positions)
        pictures = [list(islice(remaining, len(row.pictures))) for row in rendered]
        return RenderReport(use.seconds, pictures, [row.judges for row in rendered]), pack


def _pack_gradients(
    opinions: list[Opinion[torch.Tensor]],
) -> tuple[NDArray[np.float32] | None, list[Opinion[Position]]]:
    """The pack of a batch's gradients, which all rows have or none, and the opinions with their places in it."""
    gradients = [opinion.log_gradient for opinion in opinions if opinion.log_gradient is not None]
    if not gradients:
        return None, [Opinion(opinion.log_scores, None, opinion.log_atoms) for opinion in opinions]
    pack, positions = pack_tensors(gradients)
    located = []
    for opinion, position in zip(opinions, positions, strict=True):
        located.append(Opinion(opinion.log_scores, position, opinion.log_atoms))
    return pack, located
