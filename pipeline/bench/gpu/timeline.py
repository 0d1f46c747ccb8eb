"""Where the time of a round goes: a search's own calls, with a reading of a meter wherever one stage follows another.

The meter is a clock, or a count of operations. With a clock, all work of the device is awaited before it is read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from noisesmith.pipeline.generators import Decoder
from noisesmith.pipeline.generators.adapter import Adapter
from noisesmith.pipeline.scorers import Answers, Asked, Group
from noisesmith.pipeline.search.loop import LoadedModels

Meter = Callable[[], float]

CANDIDATES = "candidates"  # drawing and choosing the next noise, on the host
TEXT = "text encoding"
DENOISING = "denoising"
DECODE = "decode"
SCORE = "score"
SCORER_GRADIENT = "gradient through the scorer"
VAE_GRADIENT = "gradient through the VAE"
RECORDS = "records"  # statistics and digests of noises, and the bookkeeping of the rows, on the host
OTHER = "other"
STAGES = (CANDIDATES, TEXT, DENOISING, DECODE, SCORE, SCORER_GRADIENT, VAE_GRADIENT, RECORDS, OTHER)


def device_clock(device: str) -> Meter:
    """Seconds of a clock that is read when the device has done all work that was given to it."""

    def read() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return read


class Timeline:
    """Adds up what a meter counts, by stage.

    Attributes:
        entered: how often each stage began.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._spent = dict.fromkeys(STAGES, 0.0)
        self.entered: Counter[str] = Counter()
        self._stage: str | None = None
        self._since = 0.0

    def switch(self, stage: str | None) -> None:
        """Count for another stage from now on; for none where ``None``."""
        now = self._meter()
        if self._stage is not None:
            self._spent[self._stage] += now - self._since
        self._stage = stage
        self._since = now
        if stage is not None:
            self.entered[stage] += 1

    def spent(self) -> dict[str, float]:
        """What each stage has taken; 0 for one that never began."""
        return dict(self._spent)


class WatchedUse:
    """Separates the host's work from that of the models: a search enters it while it uses them."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def __enter__(self) -> None:
        self._timeline.switch(OTHER)

    def __exit__(self, *_: object) -> None:
        self._timeline.switch(RECORDS)


class WatchedDecoder(Decoder):
    """A decoder that says when it works, and when the gradient comes back to its images."""

    def __init__(self, decoder: Decoder, timeline: Timeline) -> None:
        super().__init__(decoder.vae, scaled=decoder.scaled, clamp=decoder.clamp)
        self._timeline = timeline

    def __call__(self, latents: Tensor) -> Tensor:
        self._timeline.switch(DECODE)
        images = super().__call__(latents)
        if images.requires_grad:
            images.register_hook(lambda _: self._timeline.switch(VAE_GRADIENT))
        self._timeline.switch(OTHER)
        return images


@dataclass(frozen=True)
class WatchedGroup(Group):
    """A group of scorers that says when it works. What follows its answers is their gradient."""

    timeline: Timeline = field(kw_only=True)

    def answer(self, asked: Asked, images: Tensor) -> Answers:
        self.timeline.switch(SCORE)
        answers = super().answer(asked, images)
        self.timeline.switch(SCORER_GRADIENT)
        return answers


@contextmanager
def watched(models: LoadedModels, timeline: Timeline) -> Iterator[LoadedModels]:
    """The same models, which report to ``timeline`` within the block."""
    generator = models.generator
    assert isinstance(generator, Adapter)  # what load_models loads
    groups = tuple(WatchedGroup(group.members, group.lowest, timeline=timeline) for group in models.groups)
    sample, encode = generator.sample, generator.pipe.encode_prompt
    has_own_encode = "encode_prompt" in vars(generator.pipe)
    vars(generator)["sample"] = _within(timeline, DENOISING, OTHER, sample)
    generator.pipe.encode_prompt = _within(timeline, TEXT, DENOISING, encode)
    try:
        yield replace(models, decoder=WatchedDecoder(models.decoder, timeline), groups=groups)
    finally:
        del vars(generator)["sample"]
        if has_own_encode:
            generator.pipe.encode_prompt = encode
        else:
            del vars(generator.pipe)["encode_prompt"]


def _within(timeline: Timeline, stage: str, after: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """A call that counts for a stage, and what follows it for another one."""

    @wraps(work)
    def call(*args: Any, **options: Any) -> Any:
        timeline.switch(stage)
        result = work(*args, **options)
        timeline.switch(after)
        return result

    return call
