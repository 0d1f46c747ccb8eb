"""The stages of a run, with their pools, connected to each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain

from noisesmith.actors.balance import BalancedSide, Balancer
from noisesmith.actors.commits import Commits
from noisesmith.actors.generator import GeneratorInfo
from noisesmith.actors.pool import MAX_QUEUED, WRITER_QUEUED, AnyPool, Pool
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
from noisesmith.actors.surroundings import Surroundings
from noisesmith.actors.workers import Workers
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.search.render import rows_per_render
from noisesmith.pipeline.sinks import RunState, Staged, staging

MOST_SIZES = 16  # of images for which rows are held: rows in flight take memory


class Assembly:
    """generate → score → generate … → render → write. Every group of scorers has a pool and a stage of its own.

    Args:
        on_ended: called with each row that is durable, as a result or as a dead letter.
        on_committed: called with each shard that is in the dataset.

    Attributes:
        stages: in the order in which they are served: what is closest to its end goes first.
        waiting: rows that wait for their next attempt.
        commits: takes what writers have staged, and rows that failed for good.
        recovery: takes failed calls.
    """

    def __init__(
        self,
        config: RunConfig,
        workers: Workers,
        around: Surroundings,
        on_ended: Callable[[RowTask], None],
        on_committed: Callable[[int], None],
    ) -> None:
        self._config = config
        self.generators: Pool[GeneratorWorker, GeneratorInfo] = Pool(
            "generator", config.generators.count, workers.generator, around
        )
        self.writers: Pool[WriterWorker, None] = Pool(
            "writer", config.writers.count, workers.writer, around, WRITER_QUEUED
        )
        groups = config.groups
        generate_size = config.generators.batch_size
        largest = max(generate_size, *(placed.batch_size for placed, *_ in groups))
        read = 1 + len(groups)  # the optimizer state, and a gradient of each group
        self.generate = GenerateStage("generate", self.generators, generate_size, largest, around.emit, read)
        read = 2  # pictures, and an optimizer state
        self.write = WriteStage("write", self.writers, staging.ROWS_PER_FILE, largest, around.emit, read)
        self.commits = Commits(self.writers, around, on_ended, on_committed)
        self._on_ended = on_ended
        self.scorers: list[Pool[ScorerWorker, ScorerInfo]] = []
        self.scores: list[ScoreStage] = []
        for index, members in enumerate(groups):
            placed = members[0]
            which = f" {placed.name}" if len(groups) > 1 else ""
            make = partial(workers.scorer, index)
            pool: Pool[ScorerWorker, ScorerInfo] = Pool(f"scorer{which}", placed.count, make, around)
            stage = ScoreStage(f"score{which}", pool, placed.batch_size, largest, around.emit)
            stage.group = index
            stage.groups = len(groups)
            stage.steers = any(member.gradient for member in members)
            stage.generate = self.generate
            self.scorers.append(pool)
            self.scores.append(stage)
        render_size = rows_per_render(groups[0][0].batch_size)
        read = 2  # z_0 of both
        self.render = RenderStage("render", self.scorers[0], render_size, largest, around.emit, read)
        for stage in self.scores:
            stage.render = self.render
        self.generate.scores = self.scores
        self.render.write = self.write
        self.write.on_staged = self._staged
        self.stages: tuple[AnyStage, ...] = (self.write, self.render, *self.scores, self.generate)
        self.waiting: Waiting[AnyStage] = Waiting(around.clock)
        self.recovery = Recovery(
            config.faults.retries,
            config.faults.backoff_seconds,
            waiting=self.waiting,
            first=self.generate,
            finished=self.render,
            scores=self.scores,
            bury=self.commits.bury,
            emit=around.emit,
        )

    @property
    def pools(self) -> tuple[AnyPool, ...]:
        """All pools of workers."""
        return (self.generators, *self.scorers, self.writers)

    def start_models(self) -> None:
        """Create the generators and scorers, and let them load.

        They are created in turn, because Ray places them in this order: so each side has its share of a cluster that is
        too small for all of them. Writers that take cores come first, since they cannot always go elsewhere.
        """
        if self._config.writers.cores:
            self.writers.start()
        pools: tuple[AnyPool, ...] = (self.generators, *self.scorers)
        for number in range(max(pool.count for pool in pools)):
            for pool in pools:
                if number < pool.count:
                    pool.start_one()

    @property
    def models_loaded(self) -> bool:
        """Whether at least one generator and one scorer of each group have loaded."""
        return self.generators.info is not None and all(pool.info is not None for pool in self.scorers)

    def start_writing(self, state: RunState) -> Provenance:
        """Let rows be written, now that the models are known; returns what all rows share."""
        generator = self.generators.info
        scorers = [pool.info for pool in self.scorers if pool.info is not None]
        if generator is None or len(scorers) < len(self.scorers):
            raise RuntimeError("rows are to be written before the models are loaded")
        provenance = Provenance(
            optimizer=self._config.optimizer.method,
            generator=generator.id,
            generator_revision=generator.revision,
            scorer=" + ".join(chain.from_iterable(info.ids for info in scorers)),
            scorer_revision=" + ".join(chain.from_iterable(info.revisions for info in scorers)),
            readout=" + ".join(member.readout for member in self._config.panel),
            scheduler=self._config.generators.scheduler,
            guidance_scale=self._config.generators.guidance_scale,
            negative_prompt=self._config.generators.negative_prompt,
        )
        self.write.open(self._config, state, generator.spec, provenance)
        self.commits.open(state.committer())
        if not self.writers.slots:
            self.writers.start()
        return provenance

    def balancer(self, around: Surroundings) -> Balancer | None:
        """What moves workers between the sides while the run works, where the config asks for it."""
        placement = self._config.placement
        if placement.mode != "auto":
            return None
        sides = [BalancedSide(self.generators, self.generate, self._config.generators)]
        for pool, stage, (placed, *_) in zip(self.scorers, self.scores, self._config.groups, strict=True):
            sides.append(BalancedSide(pool, stage, placed))
        return Balancer(sides, placement.rebalance_seconds, around.clock, around.emit)

    def rows_in_flight(self, sizes: int) -> int:
        """Enough rows that every worker has a batch at work and one waiting, whichever side is behind at the moment.

        All groups of scorers look at the same rows. Images of several sizes are batched apart, so that there are as
        many rows per size as keep one worker of each side busy.

        Args:
            sizes: how many the corpus asks for.
        """
        generators = self.generators.count * self._config.generators.batch_size
        largest_side = 0
        largest_batch = 0
        for pool, (placed, *_) in zip(self.scorers, self._config.groups, strict=True):
            largest_side = max(largest_side, pool.count * placed.batch_size)
            largest_batch = max(largest_batch, placed.batch_size)
        for_workers = generators + largest_side
        for_sizes = min(sizes, MOST_SIZES) * (self._config.generators.batch_size + largest_batch)
        return MAX_QUEUED * max(for_workers, for_sizes)

    def stop(self, keep: Callable[[GeneratorWorker | ScorerWorker], None] | None = None) -> None:
        """End all workers, or leave those that hold models to ``keep``."""
        self.generators.stop(keep)
        for pool in self.scorers:
            pool.stop(keep)
        self.writers.stop()

    def drop_waiting(self) -> None:
        """Forget the rows that wait for any stage but write."""
        self.waiting.clear()
        before_writing: tuple[AnyStage, ...] = (self.generate, *self.scores, self.render)
        for stage in before_writing:
            stage.queue.clear()

    def queue_lengths(self) -> dict[str, int]:
        """Rows that wait, by stage, and those that wait for a retry."""
        in_order: tuple[AnyStage, ...] = (self.generate, *self.scores, self.render, self.write)
        lengths = {stage.name: len(stage.queue) for stage in in_order}
        return {**lengths, "retry": len(self.waiting)}

    def _staged(self, rows: list[RowTask], staged: Staged) -> None:
        self.commits.accept(staged)
        for row in rows:
            self._on_ended(row)
