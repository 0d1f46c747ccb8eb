"""What a run's actors hold and compute, from the models' JSON files: no weights are read and no number is computed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

from noisesmith.pipeline.config import AttendAndExciteConfig, InitNoConfig, RunConfig
from noisesmith.pipeline.cost.generator import generate_cost, part_without_weights
from noisesmith.pipeline.cost.measure import Cost, parameters, weight_bytes
from noisesmith.pipeline.cost.scorer import score_cost
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.generators import model_parts
from noisesmith.pipeline.generators.decoder import decoder_without_weights
from noisesmith.pipeline.models.libraries import Model
from noisesmith.pipeline.models.loading import is_models_fault
from noisesmith.pipeline.preflight import FoundModels

__all__ = ["Cost", "Side", "balance", "estimate"]

SUSTAINED = 100e12  # operations per second that seconds are based on: a third of an A100's peak


@dataclass(frozen=True)
class Side:
    """One actor: its parameters, the bytes of all weights, and the cost of a batch.

    Attributes:
        cost: ``None`` where it could not be measured.
        gaps: what the figures leave out, and why.
    """

    parameters: int
    weight_bytes: int
    batch_size: int
    cost: Cost | None
    gaps: tuple[str, ...]

    @property
    def flops(self) -> float | None:
        """Operations per image."""
        return None if self.cost is None else self.cost.flops / self.batch_size

    def __str__(self) -> str:
        held = f"{self.parameters / 1e9:.3g} G parameters, {self.weight_bytes / 1e9:.3g} GB"
        if self.cost is None:
            return "; ".join([f"{held}, parameters only", *self.gaps])
        held += f" + {self.cost.peak_bytes / 1e9:.2g} GB of activations at batch {self.batch_size}"
        return "; ".join([f"{held}, {self.cost.flops / self.batch_size / 1e12:.3g} TFLOP per image", *self.gaps])


def estimate(config: RunConfig, models: FoundModels) -> tuple[Side, Side]:
    """A generator actor and a scorer actor of a run; what cannot be found out becomes a gap, not an error."""
    return _generator(config, models), _scorer(config, models)


def balance(generator: Side, scorer: Side) -> str:
    """The split of one kind of GPU that keeps both sides busy, and seconds per round, if only arithmetic counted."""
    if not (generator.flops and scorer.flops):
        return "unknown"
    ratio = generator.flops / scorer.flops
    split = f"{ratio:.2g} generators per scorer" if ratio >= 1 else f"{1 / ratio:.2g} scorers per generator"
    seconds = " + ".join(f"{side.flops / SUSTAINED:.2g}" for side in (generator, scorer) if side.flops)
    return f"{split}; a round of one row takes {seconds} s at {SUSTAINED / 1e12:.0f} TFLOP/s sustained (an assumption)"


def _generator(config: RunConfig, models: FoundModels) -> Side:
    settings = config.generators
    found = models.generator
    gaps: list[str] = []
    parts: dict[str, Model] = {}
    for name in model_parts(found):
        with _Noting(gaps, name):
            parts[name] = part_without_weights(found, name)
    cost = None
    if found.family.denoiser in parts:
        with _Noting(gaps, "a batch"):
            cost = generate_cost(found, parts, settings.batch_size)
    if settings.cpu_offload:
        gaps.append("cpu_offload keeps one part at a time on the GPU")
    if isinstance(config.optimizer, InitNoConfig | AttendAndExciteConfig):
        gaps.append(f"{config.optimizer.method} differentiates through the U-Net, which comes on top")
    return _side(parts, settings.batch_size, cost, gaps)


def _scorer(config: RunConfig, models: FoundModels) -> Side:
    settings = config.scorers
    method = config.optimizer
    gaps: list[str] = []
    held: dict[str, Model] = {}
    decoder = None
    with _Noting(gaps, "vae"):
        decoder = decoder_without_weights(models.generator)
        held["vae"] = decoder.vae
    named = {"scorers.model": models.scorer}
    for judge, found in zip(config.judges, models.judges, strict=True):
        named[f"judge {judge.name}"] = found
    for name, found in named.items():
        with _Noting(gaps, name):
            model = found.family.without_weights(found)
            if model is not None:
                held[name] = model
    cost = None
    steering = held.get("scorers.model")
    if decoder is not None and (steering is not None or models.scorer.is_remote):
        with _Noting(gaps, "a batch"):
            gradient = method.uses_gradient
            spec = models.generator.spec
            cost = score_cost(decoder, models.scorer, steering, spec, settings.batch_size, gradient=gradient)
    return _side(held, settings.batch_size, cost, gaps)


def _side(models: Mapping[str, Model], batch_size: int, cost: Cost | None, gaps: Iterable[str]) -> Side:
    held = models.values()
    return Side(sum(map(parameters, held)), sum(map(weight_bytes, held)), batch_size, cost, tuple(gaps))


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
