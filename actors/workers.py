"""Creates the worker processes of a run, where its config places them, or takes those that an earlier run has left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from noisesmith.actors.generator import GeneratorActor
from noisesmith.actors.placement import actor_options, writer_options
from noisesmith.actors.scorer import ScorerActor
from noisesmith.actors.stages import GeneratorWorker, ScorerWorker, WriterWorker
from noisesmith.actors.writer import WriterActor
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import CheckedCorpus
from noisesmith.pipeline.sinks import RunState

RENEW_SECONDS = 30  # that a loaded generator may take to answer


class Workers(Protocol):
    """Starts one worker per call. ``group`` is the index of the group of scorers that the worker holds."""

    def generator(self) -> GeneratorWorker: ...

    def scorer(self, group: int) -> ScorerWorker: ...

    def writer(self) -> WriterWorker: ...


class LoadedActors:
    """Actors whose models stay loaded between two runs of one session, by what they have loaded."""

    def __init__(self) -> None:
        self._actors: defaultdict[str, list[Any]] = defaultdict(list)

    def put(self, key: str, actor: Any) -> None:
        self._actors[key].append(actor)

    def take(self, key: str) -> Any | None:
        """One that holds what ``key`` says, or ``None``."""
        return self._actors[key].pop() if self._actors[key] else None

    def limit(self, most: Mapping[str, int]) -> None:
        """End those beyond this number of each key, so that others can have their GPUs and cores."""
        for key, actors in self._actors.items():
            while len(actors) > most.get(key, 0):
                ray.kill(actors.pop())


class RayWorkers:
    """Workers as Ray actors of the connected cluster.

    Args:
        loaded: what earlier runs of the session have left. What this run cannot use of it is ended.
    """

    def __init__(self, config: RunConfig, corpus: CheckedCorpus, state: RunState, loaded: LoadedActors) -> None:
        self._config = config
        self._corpus = corpus
        self._state = state
        self._loaded = loaded
        self._generator_key = "generator " + config.generators.model_dump_json()
        # What decides what a scorer's actor loads, and what it tries when it has.
        models = config.model_dump_json(include={"generators", "scorers", "combine", "judges"})
        tried = config.optimizer.uses_gradient
        self._scorer_keys = [f"scorer {group} {tried} {models}" for group in range(len(config.groups))]
        self._keys: dict[Any, str] = {}  # of the actors with models
        counts = {key: placed.count for key, (placed, *_) in zip(self._scorer_keys, config.groups, strict=True)}
        loaded.limit(counts | {self._generator_key: config.generators.count})

    def generator(self) -> GeneratorWorker:
        worker: GeneratorWorker = self._loaded_generator() or _create(
            GeneratorActor, actor_options(self._config.generators), self._config
        )
        self._keys[worker] = self._generator_key
        return worker

    def scorer(self, group: int) -> ScorerWorker:
        key = self._scorer_keys[group]
        placement = self._config.groups[group][0]
        worker: ScorerWorker = self._loaded.take(key) or _create(
            ScorerActor, actor_options(placement), self._config, group
        )
        self._keys[worker] = key
        return worker

    def writer(self) -> WriterWorker:
        arguments = (self._state.run_dir.absolute(), self._state.header, self._corpus.extra_schema)
        worker: WriterWorker = _create(WriterActor, writer_options(self._config), *arguments)
        return worker

    def keep(self, worker: GeneratorWorker | ScorerWorker) -> None:
        """Leave a generator or a scorer with its models to the next run of the session."""
        self._loaded.put(self._keys[worker], worker)

    def _loaded_generator(self) -> Any | None:
        """One that searches by this run's method from now on."""
        while (actor := self._loaded.take(self._generator_key)) is not None:
            try:
                ray.get(actor.search_by.remote(self._config), timeout=RENEW_SECONDS)
            except RayError:  # it has died, or hangs
                ray.kill(actor)
            else:
                return actor
        return None


def _create(actor_class: Any, options: dict[str, Any], *arguments: object) -> Any:
    """A handle of a new actor, which Ray leaves untyped."""
    return actor_class.options(**options).remote(*arguments)
