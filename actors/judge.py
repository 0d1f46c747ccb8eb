"""The judge worker of a rescoring: looks at finished images, and holds neither decoder nor scorer."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import ray
import torch

from noisesmith.actors.pool import Loaded
from noisesmith.pipeline.config.section import Actors
from noisesmith.pipeline.images import decode_png
from noisesmith.pipeline.models.runtime import ExclusiveUse, device_for, import_libraries, memory_guard, threads_for
from noisesmith.pipeline.scorers import FoundScorer, Judge, Trial, load_judge


@dataclass(frozen=True)
class JudgeInfo:
    """The revisions of the judges that a worker has loaded, in their order."""

    revisions: tuple[str, ...]


@dataclass(frozen=True)
class Verdicts:
    """Each judge's scores of the images of a call, by the judge's name; null where it cannot tell.

    ``seconds`` is how long the call used the judges.
    """

    seconds: float
    scores: dict[str, list[float | None]]


@ray.remote
class JudgeActor:
    """Keeps no state but its models.

    Args:
        found: the judges by name, as they were found by the driver.
        size: height and width of the run's images in pixels.
    """

    def __init__(self, found: dict[str, FoundScorer], placement: Actors, size: tuple[int, int]) -> None:
        self._found = found
        self._placement = placement
        self._size = size
        self._models = threading.Lock()

    def load(self) -> Loaded[JudgeInfo]:
        """Load the judges, and let each look at one image.

        Raises:
            UserError: one cannot be loaded, or cannot score an image.
        """
        import_libraries()
        torch.set_num_threads(threads_for(self._placement.num_cpus))
        device = device_for(self._placement.num_gpus)
        trial = Trial.of_pictures(*self._size)
        self._judges: dict[str, Judge] = {}
        for name, found in self._found.items():
            self._judges[name] = load_judge(found, device, trial)
        return Loaded.here(JudgeInfo(tuple(judge.revision for judge in self._judges.values())))

    def judge(self, names: list[str], prompts: list[str], pictures: list[bytes]) -> Verdicts:
        """Let the named judges look at PNG images of one size.

        Raises:
            MemoryExhausted: the batch is too large for the device.
        """
        use = ExclusiveUse(self._models)
        images = torch.stack([decode_png(picture) for picture in pictures])
        with memory_guard(), use:
            scores = {name: self._judges[name].judge(prompts, images) for name in names}
        return Verdicts(use.seconds, scores)
