"""Many runs in one Ray session, for tests: each kind of worker is one process that serves them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray
from rich.console import Console

from noisesmith.actors import workers
from noisesmith.actors.pool import Pool
from noisesmith.actors.session import Session, session
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.sinks import open_run
from noisesmith.pipeline.telemetry.console import ConsoleProgress


class Kept:
    """An actor class whose process serves all runs, with a new object in it for each.

    Importing the libraries again for every worker of dozens of runs would take minutes.
    """

    def __init__(self, actor_class: Any) -> None:
        self._class = actor_class
        self._handle: Any = None

    def options(self, **options: Any) -> Kept:
        self._options = options
        return self

    def remote(self, *arguments: Any) -> Any:
        if self._handle is None:
            self._handle = self._class.options(**self._options).remote(*arguments)
        else:
            # Waited for: a worker takes several calls at once, and the next ones are for the new object.
            ray.get(self._handle.__ray_call__.remote(lambda actor, *given: actor.__init__(*given), *arguments))
        return self._handle


def drive(runs: Session, config: RunConfig, **options: bool) -> None:
    """Make the run of a config to its end; ``options`` are those of ``Session.drive``."""
    corpus = open_corpus(config)
    progress = ConsoleProgress(Console(quiet=True))
    outcome, _ = runs.drive(config, corpus, open_run(config, corpus), progress, **options)
    assert outcome.complete


@contextmanager
def one_process_per_worker(config: RunConfig) -> Iterator[Session]:
    """One cluster, placed as ``config`` asks, and one process of each kind of worker for all runs in the block."""
    with pytest.MonkeyPatch.context() as patch, session(config, print) as runs:
        for name in ("GeneratorActor", "ScorerActor", "WriterActor"):
            patch.setattr(workers, name, Kept(getattr(workers, name)))
        patch.setattr(Pool, "stop", lambda *_: None)
        yield runs
