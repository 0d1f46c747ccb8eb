"""The stages that a row passes: generate and score once per image, then render and write."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from typing import Protocol

from ray.exceptions import RayError

from noisesmith.actors.generator import GenerateOrder, GenerateReport, GeneratorInfo
from noisesmith.actors.packs import Arguments, Pack, Reference, Stored, encode
from noisesmith.actors.pool import Method, Worker
from noisesmith.actors.retry import Fault, cause_of
from noisesmith.actors.row_task import RowTask
from noisesmith.actors.scorer import RenderOrder, RenderReport, ScoreOrder, ScoreReport, ScorerInfo
from noisesmith.actors.stage import AnyStage, Call, Stage
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, reason
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.records import Failure
from noisesmith.pipeline.sinks import RunState


class PackingMethod(Protocol):
    """A method of a remote worker that returns a report, then packs."""

    def remote(self, *arguments: object) -> list[Reference]: ...


class GeneratorWorker(Worker, Protocol):
    @property
    def generate(self) -> PackingMethod: ...


class ScorerWorker(Worker, Protocol):
    @property
    def score(self) -> PackingMethod: ...

    @property
    def render(self) -> PackingMethod: ...


class WriterWorker(Worker, Protocol):
    @property
    def put(self) -> Method: ...

    @property
    def fail(self) -> Method: ...

    @property
    def finish(self) -> Method: ...


class GenerateStage(Stage[GeneratorWorker, GeneratorInfo, GenerateReport]):
    """Moves the noise of rows at any rounds, and denoises it. The rows of a batch share their sampler steps."""

    name = "generate"
    arrays_per_row = 2  # optimizer state and gradient
    score: AnyStage

    def lane_of(self, row: RowTask) -> Hashable:
        return row.search.next_image().steps

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        start = row.search.start()
        if start is None:
            return ()
        if start.log_gradient is None:
            return (start.state.pack,)
        return (start.state.pack, start.log_gradient.pack)

    def submit(self, worker: GeneratorWorker, rows: list[RowTask]) -> list[Reference]:
        arguments = Arguments()
        orders = []
        for row in rows:
            order = GenerateOrder(row.search.generate_task())
            start = row.search.start()
            if start is not None:
                order.state = arguments.locate(start.state)
                if start.log_gradient is not None:
                    order.log_gradient = arguments.locate(start.log_gradient)
            orders.append(order)
        return worker.generate.remote(encode(orders), *arguments.references)

    def receive(self, rows: list[RowTask], report: GenerateReport, packs: list[Reference]) -> None:
        pack = Pack(packs[0], len(rows))
        for index, row in enumerate(rows):
            state = Stored(pack, report.states[index])
            row.search.generated(report.records[index], state, Stored(pack, report.latents[index]))
            self.score.queue.add(row)

    def seconds_of(self, report: GenerateReport) -> float:
        return report.seconds


class ScoreStage(Stage[ScorerWorker, ScorerInfo, ScoreReport]):
    """Decodes, scores and differentiates z_0."""

    name = "score"
    generate: AnyStage
    render: AnyStage

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        return (row.search.current_latents.pack,)

    def submit(self, worker: ScorerWorker, rows: list[RowTask]) -> list[Reference]:
        arguments = Arguments()
        orders = []
        for row in rows:
            orders.append(ScoreOrder(row.search.score_task(), arguments.locate(row.search.current_latents)))
        return worker.score.remote(encode(orders), *arguments.references)

    def receive(self, rows: list[RowTask], report: ScoreReport, packs: list[Reference]) -> None:
        gradients = Pack(packs[0], len(rows))
        for index, row in enumerate(rows):
            gradient = None if report.gradients is None else Stored(gradients, report.gradients[index])
            row.search.scored(report.scores[index], gradient)
            next_stage = self.render if row.search.finished else self.generate
            next_stage.queue.add(row)

    def seconds_of(self, report: ScoreReport) -> float:
        return report.seconds


class RenderStage(Stage[ScorerWorker, ScorerInfo, RenderReport]):
    """Makes the PNG files of rows whose search has ended, and lets the judges look at them; scorers hold the judges."""

    name = "render"
    arrays_per_row = 2
    write: AnyStage

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        first, kept = row.search.written_latents()
        return (first.pack, kept.pack)

    def submit(self, worker: ScorerWorker, rows: list[RowTask]) -> list[Reference]:
        arguments = Arguments()
        orders = []
        for row in rows:
            first, kept = row.search.written_latents()
            orders.append(RenderOrder(row.search.row.prompt, arguments.locate(first), arguments.locate(kept)))
        return worker.render.remote(encode(orders), *arguments.references)

    def receive(self, rows: list[RowTask], report: RenderReport, packs: list[Reference]) -> None:
        pack = Pack(packs[0], len(rows))
        for index, row in enumerate(rows):
            first, kept = report.pictures[index]
            row.pictures = (Stored(pack, first), Stored(pack, kept))
            row.judges = report.judges[index]
            self.write.queue.add(row)

    def seconds_of(self, report: RenderReport) -> float:
        return report.seconds


class WriteStage(Stage[WriterWorker, None, list[int]]):
    """Makes finished rows and dead letters durable, one per call. The report lists the shards that it completed."""

    name = "write"
    on_written: Callable[[RowTask, list[int]], None]

    def open(self, config: RunConfig, state: RunState, spec: LatentSpec) -> None:
        """Take what is known once the models are loaded."""
        self._config = config
        self._state = state
        self._spec = spec

    def submit(self, worker: WriterWorker, rows: list[RowTask]) -> list[Reference]:
        self._state.check_lock()
        (row,) = rows
        search = row.search
        if row.failed:
            attempts = tuple(asdict(attempt) for attempt in row.attempts)
            return [worker.fail.remote(Failure(search.row, attempts))]
        spec = self._spec
        result = search.result(spec.shape, (spec.width, spec.height), row.judges)
        if row.pictures is None:
            raise RuntimeError(f"row {search.row.id} is to be written without its images")
        first, kept = row.pictures
        arguments = Arguments()
        image = arguments.locate(kept)
        initial = arguments.locate(first) if self._config.output.image_initial else None
        state = arguments.locate(search.states[search.kept]) if self._config.stores_noise else None
        return [worker.put.remote(result, image, initial, state, *arguments.references)]

    def receive(self, rows: list[RowTask], report: list[int], packs: list[Reference]) -> None:
        self.on_written(rows[0], report)

    def take_back(self, call: Call[WriterWorker, None, list[int]], fault: Fault, error: RayError) -> bool:
        if fault is Fault.OBJECT:
            return False
        if not fault.is_death:
            raise RunError(f"the writer cannot write ({reason(cause_of(error))})") from error
        self.queue.put_back(call.rows)
        return True

    def seconds_of(self, report: list[int]) -> float:
        return 0.0
