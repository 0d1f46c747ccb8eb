"""The embedded world's judge behind the judges' protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.loading import explained
from noisesmith.pipeline.models.weightless import as_loaded
from noisesmith.pipeline.scorers.family import FoundScorer, ScorerFamily

if TYPE_CHECKING:
    from torch import Tensor


class Detector(ScorerFamily):
    """Judges by detected objects: 1.0 if they fit the prompt, 0.0 if not, ``None`` outside the embedded grammar."""

    def __init__(self, found: FoundScorer, device: str) -> None:
        from noisesmith.pipeline.embedded.judge import Judge

        source = found.source
        with explained(f"{source.field}: {source.id!r} cannot be loaded"):
            self._judge = Judge.from_pretrained(source.location)
        self._judge.to(device)
        self.id = source.id
        self.revision = found.revision

    @classmethod
    def without_weights(cls, found: FoundScorer) -> Model:
        from noisesmith.pipeline.embedded.judge import Judge, JudgeConfig

        config = JudgeConfig.from_dict(found.source.read_json("config.json"))
        with torch.device("meta"):
            judge = Judge(config)
        return as_loaded(judge, torch.float32)

    def judge(self, prompts: list[str], images: Tensor) -> list[float | None]:
        with torch.no_grad():
            return [self._judge.faithful(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
