"""The whole search of a list of prompts in one process: *Noise Diffusion* (arXiv 2411.16503) from top to bottom.

A distributed run takes the same path: its workers call the same :func:`generate` and :func:`score`, and its driver
keeps the same :class:`RowSearch` per row. The tests hold the two to equal results, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

from torch import Tensor

from noisesmith.pipeline.config import Resolution, RunConfig
from noisesmith.pipeline.generators import Decoder, Generator
from noisesmith.pipeline.noise import to_bytes
from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.scorers import Group, Judge
from noisesmith.pipeline.search.generate import generate
from noisesmith.pipeline.search.render import render
from noisesmith.pipeline.search.row import RowSearch
from noisesmith.pipeline.search.score import score
from noisesmith.pipeline.search.tasks import ALONE, ModelUse


@dataclass(frozen=True)
class LoadedModels:
    """The frozen models of a search, loaded. Judges look at finished images and never steer.

    ``groups`` are the config's, so that every gradient is summed in the same order as in a distributed run.
    """

    generator: Generator
    decoder: Decoder
    groups: tuple[Group, ...]
    judges: Mapping[str, Judge]


def search_rows(
    rows: Iterable[Row], config: RunConfig, models: LoadedModels, on_images: Callable[[int], None] = lambda _: None
) -> Iterator[Result]:
    """Search every row's initial noise, ``generators.batch_size`` rows at a time; yields results in the rows' order.

    Args:
        on_images: called with the number of images after each batch.

    Raises:
        FloatingPointError, UnusableImage: a row's first image is unusable; there is nothing to fall back on.
    """
    remaining = iter(rows)
    while batch := list(islice(remaining, config.generators.batch_size)):
        searches = [RowSearch[Tensor](row, config) for row in batch]
        while unfinished := [search for search in searches if not search.finished]:
            for _, alike in groupby(sorted(unfinished, key=_shared), key=_shared):
                made = make_images(list(alike), config, models)
                on_images(made)
        for search in searches:
            yield _finish(search, config, models)


def _shared(search: RowSearch[Tensor]) -> tuple[tuple[int, int], Resolution]:
    """What the images of a batch have in common: their sampler steps, fewer for previews and probes, and their size."""
    return search.next_image().lane, search.row.resolution or (0, 0)


def make_images(
    searches: Sequence[RowSearch[Tensor]], config: RunConfig, models: LoadedModels, use: ModelUse = ALONE
) -> int:
    """One image per row: move its noise, denoise it, score the image. Returns how many images were made.

    Args:
        use: entered each time that the models are used.
    """
    tasks = [search.generate_task() for search in searches]
    starts = [search.start() for search in searches]
    try:
        made = generate(config.optimizer, models.generator, tasks, starts, use)
        paused = [None] * len(searches) if made.paused is None else made.paused
        outcomes = zip(searches, made.records, made.states, made.latents, paused, strict=True)
        for search, record, state, latents, stopped in outcomes:
            search.generated(record, state, latents, stopped)
        questions = [search.score_task() for search in searches]
        answers = [score(models.decoder, group, questions, made.latents, use) for group in models.groups]
    except ArithmeticError:
        # One unusable image fails its batch. Each row alone shows which row it is.
        if len(searches) > 1:
            return sum(make_images([search], config, models, use) for search in searches)
        if not searches[0].scores:
            raise
        searches[0].abandon()
        return 0
    for search, opinions in zip(searches, zip(*answers, strict=True), strict=True):
        search.scored(opinions)
    return len(searches)


def _finish(search: RowSearch[Tensor], config: RunConfig, models: LoadedModels) -> Result:
    """Render the images to keep, and put the result together."""
    (rendered,) = render(models.decoder, models.judges, [search.row.prompt], [search.written_latents()])
    spec = models.generator.spec
    result = search.result((spec.width, spec.height), rendered.judges)
    noise = to_bytes(search.states[search.kept][0]) if config.stores_noise else None
    pictures = dict(zip(search.written_images(), rendered.pictures, strict=True))
    first = pictures[0] if config.output.image_initial else None
    listed = {image: pictures[image] for image in search.listed_images()}
    return result.completed(pictures[search.kept], first, noise, listed)
