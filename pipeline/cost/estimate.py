"""What a run's actors hold and compute, from the models' JSON files: no weights are read and no number is computed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import TracebackType

from noisesmith.pipeline.config import AttendAndExciteConfig, InitNoConfig, MemberConfig, RunConfig
from noisesmith.pipeline.cost.generator import generate_cost
from noisesmith.pipeline.cost.measure import Cost, parameters, weight_bytes
from noisesmith.pipeline.cost.scorer import Weightless, score_cost
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.generators import FoundGenerator, model_parts, part_without_weights
from noisesmith.pipeline.generators.decoder import decoder_without_weights
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.loading import is_models_fault
from noisesmith.pipeline.preflight import FoundModels
from noisesmith.pipeline.scorers import FoundScorer

SUSTAINED = 100e12  # operations per second that seconds are based on: a third of an A100's peak


@dataclass(frozen=True)
class Side:
    """One actor: its parameters, the bytes of all weights, and the cost of a batch.

    Attributes:
        images: per row, among which what a row takes once is divided.
        steps_share: of the sampler steps of a full image those that an image of a row takes on average; previews and
            probes take fewer.
        scorers: bytes of the weights of each scorer that it holds, by name; empty for a generator.
        cost: ``None`` where it could not be measured.
        gaps: what the figures leave out, and why.
    """

    parameters: int
    weight_bytes: int
    batch_size: int
    cost: Cost | None
    gaps: tuple[str, ...]
    images: int
    steps_share: float = 1.0
    scorers: Mapping[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> float | None:
        """Operations per image, on average over the images of a row."""
        if self.cost is None:
            return None
        each = (self.cost.flops - self.cost.once) * self.steps_share
        return (each + self.cost.once / self.images) / self.batch_size

    def __str__(self) -> str:
        held = f"{self.parameters / 1e9:.3g} G parameters, {self.weight_bytes / 1e9:.3g} GB"
        if len(self.scorers) > 1:
            parts = [f"{name} {size / 1e9:.3g} GB" for name, size in self.scorers.items()]
            held += f" ({', '.join(parts)})"
        if self.cost is None:
            return "; ".join([f"{held}, parameters only", *self.gaps])
        held += f" + {self.cost.peak_bytes / 1e9:.2g} GB of activations at batch {self.batch_size}"
        work = f"{(self.cost.flops - self.cost.once) / self.batch_size / 1e12:.3g} TFLOP per image"
        if self.steps_share != 1:
            work += f" at full steps, {self.steps_share:.2g} of it on average"
        if self.cost.once:
            work += f" and {self.cost.once / self.batch_size / 1e12:.3g} TFLOP once per prompt"
        return "; ".join([f"{held}, {work}", *self.gaps])


def estimate(config: RunConfig, models: FoundModels) -> tuple[Side, dict[str, Side]]:
    """A generator actor of a run, and a scorer actor of each group by the name of the scorer that places it.

    What cannot be found out becomes a gap, not an error.
    """
    rest = iter(models.scorers)
    scoring: dict[str, Side] = {}
    for group in config.groups:
        found = list(islice(rest, len(group)))
        judges = () if scoring else models.judges  # those of the first group hold the judges
        scoring[group[0].name] = _scorer(config, models.generator, group, found, judges)
    return _generator(config, models), scoring


def balance(generator: Side, scorers: Mapping[str, Side]) -> str:
    """The split of one kind of GPU that keeps all sides busy, and seconds per round, if only arithmetic counted."""
    costs = [side.flops for side in scorers.values() if side.flops]
    if not generator.flops or len(costs) < len(scorers):
        return "unknown"
    splits = []
    for name, flops in zip(scorers, costs, strict=True):
        which = f" {name}" if len(scorers) > 1 else ""
        ratio = generator.flops / flops
        if ratio >= 1:
            splits.append(f"{ratio:.2g} generators per scorer{which}")
        else:
            splits.append(f"{1 / ratio:.2g} scorers{which} per generator")
    # The groups of scorers look at an image at the same time, so the slowest of them counts.
    seconds = f"{generator.flops / SUSTAINED:.2g} + {max(costs) / SUSTAINED:.2g}"
    rate = f"{SUSTAINED / 1e12:.0f} TFLOP/s sustained (an assumption)"
    return f"{', '.join(splits)}; a round of one row takes {seconds} s at {rate}"


def _generator(config: RunConfig, models: FoundModels) -> Side:
    settings = config.generators
    found = models.generator
    gaps: list[str] = []
    parts: dict[str, Model] = {}
    names = model_parts(found)
    for name in names:
        with _Noting(gaps, name):
            parts[name] = part_without_weights(found, name)
    cost = None
    if len(parts) == len(names):
        with _Noting(gaps, "a batch"):
            cost = generate_cost(found, parts, settings.batch_size)
    if settings.cpu_offload:
        gaps.append("cpu_offload keeps one part at a time on the GPU")
    if isinstance(config.optimizer, InitNoConfig | AttendAndExciteConfig):
        gaps.append(f"{config.optimizer.method} differentiates through the U-Net, which comes on top")
    images, evaluations = config.most_per_row()
    side = _side(parts, settings.batch_size, cost, gaps, images)
    return replace(side, steps_share=evaluations / (images * settings.steps))


def _scorer(
    config: RunConfig,
    generator: FoundGenerator,
    group: Sequence[MemberConfig],
    scorers: Sequence[FoundScorer],
    judges: Sequence[FoundScorer],
) -> Side:
    gaps: list[str] = []
    held: dict[str, Model] = {}
    decoder = None
    with _Noting(gaps, "vae"):
        decoder = decoder_without_weights(generator)
        held["vae"] = decoder.vae
    named = {f"{member.section}.model": found for member, found in zip(group, scorers, strict=True)}
    for judge in judges:
        named[judge.source.field] = judge
    for name, found in named.items():
        with _Noting(gaps, name):
            model = found.family.without_weights(found)
            if model is not None:
                held[name] = model
    if any(member.asks == "questions" or member.readout == "contrastive" for member in group):
        gaps.append("one question per image is counted, and more may be asked")
    weightless = []
    weights = {}
    for member, found in zip(group, scorers, strict=True):
        model = held.get(f"{member.section}.model")
        weights[member.name] = 0 if model is None else weight_bytes(model)
        if model is not None or found.is_remote:
            weightless.append(Weightless(found, model, config.optimizer.uses_gradient and member.gradient))
    cost = None
    batch_size = group[0].batch_size
    if decoder is not None and len(weightless) == len(group):
        with _Noting(gaps, "a batch"):
            cost = score_cost(decoder, weightless, generator.spec, batch_size)
    images, _ = config.most_per_row()
    return replace(_side(held, batch_size, cost, gaps, images), scorers=weights)


def _side(models: Mapping[str, Model], batch_size: int, cost: Cost | None, gaps: Iterable[str], images: int) -> Side:
    held = models.values()
    return Side(sum(map(parameters, held)), sum(map(weight_bytes, held)), batch_size, cost, tuple(gaps), images)


class _Noting:
    """Notes what keeps a part out of the estimate: a file that is not here, a config that its class cannot take, a
    model that asks for numbers. None of them may end a plan; a bug of ours may.
    """

    def __init__(self, gaps: list[str], name: str) -> None:
        self._gaps = gaps
        self._name = name
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        self._warnings.__enter__()
        warnings.simplefilter("ignore")  # of layers without elements: nothing is computed with them

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._warnings.__exit__(kind, error, traceback)
        if error is None:
            return False
        if isinstance(error, UserError) or is_models_fault(error):
            self._gaps.append(f"without {self._name} ({reason(error)})")
            return True
        return False
