"""The stages of a run, with their pools, connected to each other."""

from __future__ import annotations

from collections.abc import Callable

from noisesmith.actors.generator import GeneratorInfo
from noisesmith.actors.pool import Pool, Surroundings
from noisesmith.actors.recovery import Recovery
from noisesmith.actors.row_task import RowTask, Waiting
from noisesmith.actors.scorer import ScorerInfo
from noisesmith.actors.stage import AnyStage
from noisesmith.actors.stages import (
    GenerateStage,
    GeneratorWorker,
    RenderStage,
    ScorerWorker,
    ScoreStage,
    WriterWorker,
    WriteStage,
)
from noisesmith.actors.workers import Workers
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.sinks import RunState


class Assembly:
    """generate → score → generate … → render → write.

    Args:
        on_written: called with each row that is durable, and the shards that it completed.

    Attributes:
        stages: in the order in which they are served: what is closest to its end goes first.
        waiting: rows that wait for their next attempt.
        recovery: takes failed calls.
    """

    def __init__(
        self,
        config: RunConfig,
        workers: Workers,
        around: Surroundings,
        on_written: Callable[[RowTask, list[int]], None],
    ) -> None:
        self._config = config
        self._workers = workers
        self.generators: Pool[GeneratorWorker, GeneratorInfo] = Pool(
            "generator", config.generators.count, workers.generator, around
        )
        self.scorers: Pool[ScorerWorker, ScorerInfo] = Pool("scorer", config.scorers.count, workers.scorer, around)
        self.writers: Pool[WriterWorker, None] = Pool("writer", 1, self._make_writer, around)
        generate_size = config.generators.batch_size
        score_size = config.scorers.batch_size
        render_size = max(1, score_size // 2)  # two images per row
        largest = max(generate_size, score_size)
        self.generate = GenerateStage(self.generators, generate_size, largest, around.emit)
        self.score = ScoreStage(self.scorers, score_size, largest, around.emit)
        self.render = RenderStage(self.scorers, render_size, largest, around.emit)
        self.write = WriteStage(self.writers, 1, largest, around.emit)
        self.generate.score = self.score
        self.score.generate = self.generate
        self.score.render = self.render
        self.render.write = self.write
        self.write.on_written = on_written
        self.stages: tuple[AnyStage, ...] = (self.write, self.render, self.score, self.generate)
        self.waiting: Waiting[AnyStage] = Waiting(around.clock)
        self.recovery = Recovery(
            config.faults.retries,
            config.faults.backoff_seconds,
            waiting=self.waiting,
            first=self.generate,
            finished=self.render,
            write=self.write,
            emit=around.emit,
        )

    def start_models(self) -> None:
        """Create the generators and scorers, and let them load."""
        self.generators.start()
        self.scorers.start()

    @property
    def models_loaded(self) -> bool:
        """Whether at least one generator and one scorer have loaded."""
        return self.generators.info is not None and self.scorers.info is not None

    def start_writing(self, state: RunState) -> Provenance:
        """Create the writer, once the models are known; returns what all rows share."""
        generator = self.generators.info
        scorer = self.scorers.info
        if generator is None or scorer is None:
            raise RuntimeError("the writer is to start before the models are loaded")
        self._provenance = Provenance(
            optimizer=self._config.optimizer.method,
            generator=generator.id,
            generator_revision=generator.revision,
            scorer=scorer.id,
            scorer_revision=scorer.revision,
            readout=self._config.scorers.readout,
        )
        self.write.open(self._config, state, generator.spec)
        self.writers.start()
        return self._provenance

    def stop(self) -> None:
        """End all workers."""
        for pool in (self.generators, self.scorers, self.writers):
            pool.stop()

    def drop_waiting(self) -> None:
        """Forget the rows that wait for any stage but write."""
        self.waiting.clear()
        for stage in (self.generate, self.score, self.render):
            stage.queue.clear()

    def queue_lengths(self) -> dict[str, int]:
        """Rows that wait, by stage, and those that wait for a retry."""
        return {
            "generate": len(self.generate.queue),
            "score": len(self.score.queue),
            "render": len(self.render.queue),
            "write": len(self.write.queue),
            "retry": len(self.waiting),
        }

    def _make_writer(self) -> WriterWorker:
        return self._workers.writer(self._provenance)
