"""Creates the worker processes of a run, where its config places them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from noisesmith.actors.generator import GeneratorActor
from noisesmith.actors.placement import actor_options, writer_options
from noisesmith.actors.scorer import ScorerActor
from noisesmith.actors.stages import GeneratorWorker, ScorerWorker, WriterWorker
from noisesmith.actors.writer import WriterActor
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import CheckedCorpus, Provenance


class Workers(Protocol):
    """Starts one worker per call. ``group`` is the index of the group of scorers that the worker holds."""

    def generator(self) -> GeneratorWorker: ...

    def scorer(self, group: int) -> ScorerWorker: ...

    def writer(self, provenance: Provenance) -> WriterWorker: ...


class RayWorkers:
    """Workers as Ray actors of the connected cluster."""

    def __init__(self, config: RunConfig, corpus: CheckedCorpus, run_dir: Path) -> None:
        self._config = config
        self._corpus = corpus
        self._run_dir = run_dir

    def generator(self) -> GeneratorWorker:
        worker: GeneratorWorker = _create(GeneratorActor, actor_options(self._config.generators), self._config)
        return worker

    def scorer(self, group: int) -> ScorerWorker:
        placement = self._config.groups[group][0]
        worker: ScorerWorker = _create(ScorerActor, actor_options(placement), self._config, group)
        return worker

    def writer(self, provenance: Provenance) -> WriterWorker:
        corpus = self._corpus
        arguments = (self._run_dir, corpus.extra_schema, corpus.size, provenance, corpus.first)
        worker: WriterWorker = _create(WriterActor, writer_options(), *arguments)
        return worker


def _create(actor_class: Any, options: dict[str, Any], *arguments: object) -> Any:
    """A handle of a new actor, which Ray leaves untyped."""
    return actor_class.options(**options).remote(*arguments)
