"""The calls that are timed: the product's own generate, score and render calls, with prompts of the corpus."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, reason
from noisesmith.pipeline.generators import Generator
from noisesmith.pipeline.generators.conditioning import RememberedText
from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.runtime import ExclusiveUse, memory_guard
from noisesmith.pipeline.records import Row
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.generate import generate
from noisesmith.pipeline.search.render import render, rows_per_render
from noisesmith.pipeline.search.row import RowSearch
from noisesmith.pipeline.search.score import score
from noisesmith.pipeline.search.scoring import Scoring
from noisesmith.pipeline.search.tasks import ScoreTask

if TYPE_CHECKING:
    from torch import Tensor

FIRST, ROUND, SCORE, RENDER = "first", "round", "score", "render"  # the kinds of calls
MOST_SAMPLES = 64  # images that are kept for the scorers
_LOG_SCORE = -20.0  # of every image: it ends no search


@dataclass(frozen=True)
class Sample:
    """An image for the scorers: what they are asked about it, and z_0 ``[C, h, w]``."""

    task: ScoreTask
    latents: Tensor


class GeneratorTrial:
    """First images of rows, then the images of their first rounds.

    The scorers are not loaded meanwhile: a round moves the noise along a gradient that is drawn at random. The time is
    the same.

    Args:
        rows: whose images have one size; they are used in turn.

    Attributes:
        samples: first images, for the scorers.
    """

    def __init__(self, config: RunConfig, generator: Generator, rows: Sequence[Row]) -> None:
        self.samples: list[Sample] = []
        self._config = config
        self._generator = generator
        self._rows = cycle(rows)
        self._models = threading.Lock()
        self._random = torch.Generator().manual_seed(config.seed)

    def run(self, batch_size: int) -> dict[str, float]:
        """Make a first image of so many rows, then another one where the search has rounds."""
        encode = getattr(self._generator.pipe, "encode_prompt", None)
        if isinstance(encode, RememberedText):
            encode.forget()  # a small corpus repeats its prompts here, and a run encodes each of them once
        searches = [RowSearch[torch.Tensor](row, self._config) for row in islice(self._rows, batch_size)]
        seconds = {FIRST: self._make(searches)}
        if not searches[0].finished:
            seconds[ROUND] = self._make(searches)
        return seconds

    def _make(self, searches: Sequence[RowSearch[Tensor]]) -> float:
        """Make one image per row; returns for how long the model was used."""
        tasks = [search.generate_task() for search in searches]
        starts = [search.start() for search in searches]
        use = ExclusiveUse(self._models)
        with _usable(), memory_guard():
            made = generate(self._config.optimizer, self._generator, tasks, starts, use)
        paused = [None] * len(searches) if made.paused is None else made.paused
        outcomes = zip(searches, made.records, made.states, made.latents, paused, strict=True)
        for search, record, state, latents, stopped in outcomes:
            search.generated(record, state, latents, stopped)
            task = search.score_task()
            if not search.scores and len(self.samples) < MOST_SAMPLES:
                self.samples.append(Sample(task, latents))
            search.scored(self._opinions(task, latents))
        return use.seconds

    def _opinions(self, task: ScoreTask, latents: Tensor) -> list[Opinion[Tensor]]:
        """What the groups of scorers might say of an image."""
        opinions = []
        for group in self._config.groups:
            gradient = None
            if task.gradient and any(member.gradient for member in group):
                gradient = torch.randn(latents.shape, generator=self._random)
            asks = any(member.asks == "questions" for member in group)
            log_atoms = (_LOG_SCORE,) * len(task.questions) if asks else ()
            opinions.append(Opinion((_LOG_SCORE,) * len(group), gradient, log_atoms))
        return opinions


class ScorerTrial:
    """Scores of one group of scorers, and where it holds the judges the end of a search too.

    Args:
        samples: images to score; they are used in turn.
        renders: whether its actors make the PNG files and hold the judges.
    """

    def __init__(self, held: Scoring, samples: Sequence[Sample], renders: bool) -> None:
        self._held = held
        self._samples = cycle(samples)
        self._renders = renders
        self._models = threading.Lock()

    def run(self, batch_size: int) -> dict[str, float]:
        """Score so many images; with half as many rows, whose first and kept images are made files."""
        samples = list(islice(self._samples, batch_size))
        latents = torch.stack([sample.latents for sample in samples])
        use = ExclusiveUse(self._models)
        with _usable(), memory_guard():
            score(self._held.decoder, self._held.group, [sample.task for sample in samples], latents, use)
        seconds = {SCORE: use.seconds}
        if self._renders:
            seconds[RENDER] = self._render(rows_per_render(batch_size))
        return seconds

    def _render(self, rows: int) -> float:
        pairs = [tuple(islice(self._samples, 2)) for _ in range(rows)]
        prompts = [first.task.prompt for first, _ in pairs]
        latents = [[first.latents, kept.latents] for first, kept in pairs]
        use = ExclusiveUse(self._models)
        with memory_guard():
            render(self._held.decoder, self._held.judges, prompts, latents, use)
        return use.seconds


@contextmanager
def _usable() -> Iterator[None]:
    """Explain an image that no scorer can judge.

    Raises:
        RunError: the block made one.
    """
    try:
        yield
    except ArithmeticError as error:
        raise RunError(f"an image is unusable ({reason(error)}); try another dtype or model") from error
