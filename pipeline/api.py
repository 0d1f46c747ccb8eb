"""The public Python API: search prompts in this process, run a whole dataset, and read one back.

``import noisesmith as ns`` gives all of it; ``docs/python-api.md`` shows its use. Heavy libraries are imported when a
function needs them, so that importing noisesmith stays cheap.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, UserError, reason
from noisesmith.pipeline.records import Atom, NoiseStats, Recipe, Result, Row, row_id

if TYPE_CHECKING:
    from PIL.Image import Image

    from noisesmith.pipeline.replay import Replay
    from noisesmith.pipeline.report import Summary
    from noisesmith.pipeline.scorers import ImageScorer
    from noisesmith.pipeline.search.loop import LoadedModels


@dataclass(frozen=True)
class SearchResult:
    """The best image found for one prompt, and how it was found.

    ``judges`` maps each judge's name to its scores of the first and the kept image; all scores are in [0, 1].
    """

    prompt: str
    result: Result

    @property
    def image(self) -> Image:
        """The kept image, an RGB PIL image."""
        return _picture(self.result.image)

    @property
    def image_initial(self) -> Image | None:
        """The image of the first noise; ``None`` if ``output.image_initial`` is false."""
        return None if self.result.image_initial is None else _picture(self.result.image_initial)

    @property
    def score(self) -> float:
        """The kept image's score: P("Yes"), or what the scorer defines."""
        return self.result.score

    @property
    def score_initial(self) -> float:
        """The first image's score."""
        return self.result.score_initial

    @property
    def scores(self) -> tuple[float, ...]:
        """The score of every image made, the first image's first."""
        return self.result.scores

    @property
    def stop_reason(self) -> str:
        """Why the search ended: rounds, target, perfect, patience, budget or unusable."""
        return self.result.stop_reason

    @property
    def members(self) -> Mapping[str, tuple[float, float]]:
        """Each scorer's scores of the first and the kept image, where the config lists several."""
        return self.result.members

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """The questions about parts of the prompt, where a scorer asks them, each with P(answer) for the kept image."""
        return self.result.atoms

    @property
    def judges(self) -> Mapping[str, tuple[float | None, float | None]]:
        return self.result.judges

    @property
    def recipe(self) -> Recipe:
        """What rebuilds the kept image's noise."""
        return self.result.recipe

    @property
    def noise(self) -> NoiseStats:
        """Statistics of the kept noise against N(0, I)."""
        return self.result.noise


class Searcher:
    """Loaded models that search any number of prompt lists. Made by :func:`load`; close it to free its memory.

    The same prompts, config and models give the same results: prompt number i of each call draws the same noises.
    """

    def __init__(self, config: RunConfig, models: LoadedModels) -> None:
        self.config = config
        self._models: LoadedModels | None = models

    def __enter__(self) -> Searcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the models."""
        from noisesmith.pipeline.models.runtime import free_memory

        self._models = None
        free_memory()

    def search(self, prompts: Sequence[str], *, progress: bool = True) -> list[SearchResult]:
        """Search the best initial noise for every prompt.

        Args:
            progress: show a progress bar in a terminal or a notebook.

        Returns:
            one result per prompt, in order.

        Raises:
            UserError: a prompt is empty or not text, or the searcher is closed.
            RunError: the first image of a prompt is unusable.
        """
        from noisesmith.pipeline.lengths import refuse_long
        from noisesmith.pipeline.search.loop import search_rows
        from noisesmith.pipeline.telemetry.console import search_progress

        if self._models is None:
            raise UserError("searcher: it is closed; make another one with noisesmith.load")
        rows = _rows(prompts, self.config.max_prompt_chars)
        refuse_long(rows, self._models.generator)
        most_images = len(rows) * self.config.most_per_row()[0]
        display = search_progress(most_images) if progress else nullcontext(lambda _: None)
        with display as advance:
            try:
                found = list(search_rows(rows, self.config, self._models, advance))
            except ArithmeticError as error:
                raise RunError(f"an image is unusable ({reason(error)}); try another dtype or model") from error
        return [SearchResult(result.row.prompt, result) for result in found]


def load(config: RunConfig | None = None, *, scorer: ImageScorer | None = None, device: str | None = None) -> Searcher:
    """Load the models of a config for searches in this process. No Ray, no files written.

    Args:
        config: all defaults when absent; its corpus, output and placement are not used.
        scorer: your own scorer instead of the config's (see ``scorers.base.ImageScorer``).
        device: such as ``cuda`` or ``cpu``; a GPU if there is one when absent.

    Raises:
        UserError: a model cannot be found or loaded, or does not fit the method.
    """
    import torch

    from noisesmith.pipeline.load import load_models

    config = RunConfig() if config is None else config
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Searcher(config, load_models(config, where, scorer))


def search(
    prompts: Sequence[str],
    config: RunConfig | None = None,
    *,
    scorer: ImageScorer | None = None,
    device: str | None = None,
    progress: bool = True,
) -> list[SearchResult]:
    """Load models, search every prompt, and release the models: :func:`load` and :meth:`Searcher.search` in one call.

    Raises:
        UserError, RunError: see there.
    """
    with load(config, scorer=scorer, device=device) as searcher:
        return searcher.search(prompts, progress=progress)


@dataclass(frozen=True)
class RunReport:
    """How a run ended. ``complete`` is false if it was interrupted; the same call then resumes it."""

    run_dir: Path
    complete: bool
    summary: Summary | None


def run(config: RunConfig) -> RunReport:
    """Make or resume the dataset of a config on a Ray cluster, as ``noisesmith run`` does.

    Raises:
        UserError: the config, the corpus, a model or the run directory cannot be used.
        RunError: the run cannot go on; what is committed is safe.
    """
    from noisesmith.actors.session import session
    from noisesmith.pipeline.preflight import check_run
    from noisesmith.pipeline.report import conclude
    from noisesmith.pipeline.sinks import hold_run
    from noisesmith.pipeline.telemetry.console import ConsoleProgress, plain_console

    console = plain_console()
    _, corpus = check_run(config)
    with hold_run(config, corpus, console.print) as state:
        if len(state.done) == corpus.size:
            conclude(config, state, console.print)
            return RunReport(state.run_dir, complete=True, summary=None)
        with ConsoleProgress(console) as progress, session(config, progress.note) as runs:
            progress.start("starting Ray and loading models")
            outcome, summary = runs.drive(config, corpus, state, progress)
    return RunReport(state.run_dir, outcome.complete, summary)


def read_rows(run_dir: str | Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Read the committed rows of a run in order, images as PNG bytes; see ``sinks.read_rows``.

    Raises:
        UserError: the directory is no run, has no such column, or a shard is missing or damaged.
    """
    from noisesmith.pipeline.sinks import read_rows as read
    from noisesmith.pipeline.storage.paths import given_path

    return read(given_path(run_dir, "run_dir"), columns)


def replay(run_dir: str | Path, row_id: str) -> Replay:
    """Rebuild one committed row's noise and image from its recipe, and compare them with what was written.

    Raises:
        UserError: the run has no such row, did not keep the noise it would need, or its model cannot be loaded.
    """
    from noisesmith.pipeline.models.runtime import quiet_libraries
    from noisesmith.pipeline.replay import replay_row
    from noisesmith.pipeline.sinks import config_of_row
    from noisesmith.pipeline.storage.paths import given_path

    quiet_libraries()
    path = given_path(run_dir, "run_dir")
    return replay_row(path, config_of_row(path, row_id), row_id)


def _rows(prompts: Sequence[str], max_chars: int) -> list[Row]:
    from noisesmith.pipeline.prompts import prompt_problem

    if isinstance(prompts, str):
        raise UserError("prompts: is one text; give a list of prompts, such as [prompt]")
    rows = []
    for index, prompt in enumerate(prompts):
        if problem := prompt_problem(prompt, max_chars):
            raise UserError(f"prompts: number {index}: {problem}")
        rows.append(Row(index, row_id(index, prompt), prompt))
    return rows


def _picture(png: bytes) -> Image:
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB")
