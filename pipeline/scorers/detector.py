"""The embedded world's judge behind the judges' protocol."""

from __future__ import annotations

import torch
from torch import Tensor

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.scorers.family import FoundScorer, ScorerFamily


class Detector(ScorerFamily):
    """1.0 where the detected objects bear the prompt out, 0.0 where not, ``None`` outside the embedded grammar."""

    def __init__(self, found: FoundScorer, device: str) -> None:
        from noisesmith.pipeline.embedded.judge import Judge

        source = found.source
        try:
            self._judge = Judge.from_pretrained(source.location)
        except Exception as error:  # as in the generators' loaders
            raise UserError(f"{source.field}: {source.id!r} cannot be loaded ({reason(error)})") from error
        self._judge.to(device)
        self.id, self.revision = source.id, source.resolved_revision()

    @torch.no_grad()
    def judge(self, prompts: list[str], images: Tensor) -> list[float | None]:
        return [self._judge.faithful(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
