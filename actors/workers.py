"""Creates the worker processes of a run, where its config places them."""

from __future__ import annotations

from typing import Any, Protocol

from noisesmith.actors.generator import GeneratorActor
from noisesmith.actors.placement import actor_options, writer_options
from noisesmith.actors.scorer import ScorerActor
from noisesmith.actors.stages import GeneratorWorker, ScorerWorker, WriterWorker
from noisesmith.actors.writer import WriterActor
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import CheckedCorpus
from noisesmith.pipeline.sinks import RunState


class Workers(Protocol):
    """Starts one worker per call. ``group`` is the index of the group of scorers that the worker holds."""

    def generator(self) -> GeneratorWorker: ...

    def scorer(self, group: int) -> ScorerWorker: ...

    def writer(self) -> WriterWorker: ...


class RayWorkers:
    """Workers as Ray actors of the connected cluster."""

    def __init__(self, config: RunConfig, corpus: CheckedCorpus, state: RunState) -> None:
        self._config = config
        self._corpus = corpus
        self._state = state

    def generator(self) -> GeneratorWorker:
        worker: GeneratorWorker = _create(GeneratorActor, actor_options(self._config.generators), self._config)
        return worker

    def scorer(self, group: int) -> ScorerWorker:
        placement = self._config.groups[group][0]
        worker: ScorerWorker = _create(ScorerActor, actor_options(placement), self._config, group)
        return worker

    def writer(self) -> WriterWorker:
        arguments = (self._state.run_dir.absolute(), self._state.header, self._corpus.extra_schema)
        worker: WriterWorker = _create(WriterActor, writer_options(self._config), *arguments)
        return worker


def _create(actor_class: Any, options: dict[str, Any], *arguments: object) -> Any:
    """A handle of a new actor, which Ray leaves untyped."""
    return actor_class.options(**options).remote(*arguments)
