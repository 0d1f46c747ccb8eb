"""The stages that a row passes: generate and score once per image, then render and write."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from ray.exceptions import RayError

from noisesmith.actors.generator import GenerateOrder, GenerateReport, GeneratorInfo
from noisesmith.actors.packs import Arguments, Pack, Reference, Stored, encode
from noisesmith.actors.retry import Fault, cause_of
from noisesmith.actors.row_task import RowTask
from noisesmith.actors.scorer import RenderOrder, RenderReport, ScoreOrder, ScoreReport, ScorerInfo
from noisesmith.actors.stage import AnyStage, Call, Stage
from noisesmith.actors.surroundings import Method, Worker
from noisesmith.actors.writer import WriteOrder
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError, reason
from noisesmith.pipeline.generators import LatentSpec
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.search.combine import Opinion
from noisesmith.pipeline.search.tasks import Slope
from noisesmith.pipeline.sinks import RunState, Staged


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
    def prepare(self) -> Method: ...


GenerateCall = Call[GeneratorWorker, GeneratorInfo, GenerateReport]
ScoreCall = Call[ScorerWorker, ScorerInfo, ScoreReport]
RenderCall = Call[ScorerWorker, ScorerInfo, RenderReport]
WriteCall = Call[WriterWorker, None, Staged]


class GenerateStage(Stage[GeneratorWorker, GeneratorInfo, GenerateReport]):
    """Moves the noise of rows at any rounds, and denoises it.

    The rows of a batch take the same sampler steps, and their images have one size.
    """

    scores: Sequence[ScoreStage]

    def lane_of(self, row: RowTask) -> Hashable:
        return row.search.next_image().lane, row.search.row.resolution

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        start = row.search.start()
        if start is None:
            return ()
        packs = [start.state.pack, *(slope.log_gradient.pack for slope in start.slopes)]
        return packs if start.paused is None else [*packs, start.paused.pack]

    def submit(self, worker: GeneratorWorker, rows: list[RowTask]) -> list[Reference]:
        arguments = Arguments()
        orders = []
        for row in rows:
            order = GenerateOrder(row.search.generate_task())
            start = row.search.start()
            if start is not None:
                order.state = arguments.locate(start.state)
                slopes = [Slope(arguments.locate(slope.log_gradient), slope.factor) for slope in start.slopes]
                order.slopes = tuple(slopes)
                if start.paused is not None:
                    order.paused = arguments.locate(start.paused)
            orders.append(order)
        return worker.generate.remote(encode(orders), *arguments.references)

    def receive(self, call: GenerateCall, report: GenerateReport) -> None:
        pack = call.pack()
        for index, row in call.current():
            state = Stored(pack, report.states[index])
            paused = Stored(pack, report.paused[index]) if report.paused else None
            row.search.generated(report.records[index], state, Stored(pack, report.latents[index]), paused)
            for stage in self.scores:
                stage.queue.add(row)

    def seconds_of(self, report: GenerateReport) -> float:
        return report.seconds


class ScoreStage(Stage[ScorerWorker, ScorerInfo, ScoreReport]):
    """Decodes, scores and differentiates z_0, by one group of scorers. A row goes on once every group has answered.

    Attributes:
        group: the group's index; ``groups`` is how many there are.
        steers: whether it computes gradients for the rows that need one.
    """

    group: int
    groups: int
    steers: bool
    generate: AnyStage
    render: AnyStage

    def lane_of(self, row: RowTask) -> Hashable:
        """Rows that need a gradient travel apart, since one of them makes its whole batch compute it."""
        return self.steers and row.search.score_task().gradient, row.search.row.resolution

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        return (row.search.current_latents.pack,)

    def submit(self, worker: ScorerWorker, rows: list[RowTask]) -> list[Reference]:
        arguments = Arguments()
        orders = []
        for row in rows:
            orders.append(ScoreOrder(row.search.score_task(), arguments.locate(row.search.current_latents)))
        return worker.score.remote(encode(orders), *arguments.references)

    def receive(self, call: ScoreCall, report: ScoreReport) -> None:
        pack = call.pack()
        for index, row in call.current():
            opinion = report.opinions[index]
            position = opinion.log_gradient
            gradient = None if position is None else Stored(pack, position)
            row.opinions[self.group] = Opinion(opinion.log_scores, gradient, opinion.log_atoms)
            if len(row.opinions) < self.groups:
                continue
            row.search.scored([row.opinions[group] for group in range(self.groups)])
            row.opinions = {}
            next_stage = self.render if row.search.finished else self.generate
            next_stage.queue.add(row)

    def seconds_of(self, report: ScoreReport) -> float:
        return report.seconds


class RenderStage(Stage[ScorerWorker, ScorerInfo, RenderReport]):
    """Makes the PNG files of rows whose search has ended, and lets the judges look at them; scorers hold the judges."""

    write: AnyStage

    def lane_of(self, row: RowTask) -> Hashable:
        return row.search.row.resolution

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        return tuple(latents.pack for latents in row.search.written_latents())

    def submit(self, worker: ScorerWorker, rows: list[RowTask]) -> list[Reference]:
        arguments = Arguments()
        orders = []
        for row in rows:
            latents = [arguments.locate(stored) for stored in row.search.written_latents()]
            orders.append(RenderOrder(row.search.row.prompt, latents))
        return worker.render.remote(encode(orders), *arguments.references)

    def receive(self, call: RenderCall, report: RenderReport) -> None:
        pack = call.pack()
        for index, row in call.current():
            images = row.search.written_images()
            for image, position in zip(images, report.pictures[index], strict=True):
                row.pictures[image] = Stored(pack, position)
            row.judges = report.judges[index]
            self.write.queue.add(row)

    def seconds_of(self, report: RenderReport) -> float:
        return report.seconds


class WriteStage(Stage[WriterWorker, None, Staged]):
    """Makes finished rows durable. The rows of a batch are of one shard, and share one file.

    Attributes:
        on_staged: called with the rows of each batch that is durable.
    """

    on_staged: Callable[[list[RowTask], Staged], None]

    def open(self, config: RunConfig, state: RunState, spec: LatentSpec, provenance: Provenance) -> None:
        """Take what is known once the models are loaded."""
        self._config = config
        self._state = state
        self._spec = spec
        self._provenance = provenance

    def lane_of(self, row: RowTask) -> Hashable:
        return self._state.header.layout.shard_of(row.search.row.index)

    def packs_of(self, row: RowTask) -> Sequence[Pack]:
        stored = list(row.pictures.values())
        if self._config.stores_noise:
            stored.append(row.search.states[row.search.kept])
        return tuple({one.pack: None for one in stored})

    def submit(self, worker: WriterWorker, rows: list[RowTask]) -> list[Reference]:
        self._state.check_lock()
        arguments = Arguments()
        orders = [self._order(row, arguments) for row in rows]
        return [worker.put.remote(encode((self._provenance, orders)), *arguments.references)]

    def receive(self, call: WriteCall, report: Staged) -> None:
        self.on_staged(call.rows, report)

    def take_back(self, call: WriteCall, fault: Fault, error: RayError) -> bool:
        if fault is Fault.OBJECT:
            return False
        if not fault.is_death:
            raise cannot_write(cause_of(error)) from error
        self.queue.put_back(call.rows)
        return True

    def seconds_of(self, report: Staged) -> float:
        return 0.0

    def _order(self, row: RowTask, arguments: Arguments) -> WriteOrder:
        search = row.search
        if not row.pictures:
            raise RuntimeError(f"row {search.row.id} is to be written without its images")
        spec = self._spec
        order = WriteOrder(
            search.result((spec.width, spec.height), row.judges),
            arguments.locate(row.pictures[search.kept]),
        )
        if self._config.output.image_initial:
            order.image_initial = arguments.locate(row.pictures[0])
        order.listed = {number: arguments.locate(row.pictures[number]) for number in search.listed_images()}
        if self._config.stores_noise:
            order.state = arguments.locate(search.states[search.kept])
        return order


def cannot_write(error: BaseException) -> RunError:
    """What to raise where a row or a shard cannot be written."""
    return RunError(f"the writer cannot write ({reason(error)})")
