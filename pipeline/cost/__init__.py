"""What a run's actors hold and compute, from the models' JSON files: no weights are read and no number is computed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from noisesmith.pipeline.config import AttendAndExciteConfig, InitNoConfig, RunConfig
from noisesmith.pipeline.cost.generator import generate_cost, hollow_part
from noisesmith.pipeline.cost.hollow import parameters, weight_bytes
from noisesmith.pipeline.cost.measure import Cost
from noisesmith.pipeline.cost.scorer import hollow_decoder, hollow_scorer, look, score_cost
from noisesmith.pipeline.errors import reason
from noisesmith.pipeline.generators import model_parts
from noisesmith.pipeline.preflight import FoundModels

__all__ = ["Cost", "Side", "balance", "estimate"]

SUSTAINED = 100e12  # operations a second assumed where seconds are given: a third of what an A100 is sold with


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
        """Operations an image."""
        return None if self.cost is None else self.cost.flops / self.batch_size

    def __str__(self) -> str:
        held = f"{self.parameters / 1e9:.3g} G parameters, {self.weight_bytes / 1e9:.3g} GB"
        if self.cost is None:
            return "; ".join([f"{held}, parameters only", *self.gaps])
        held += f" + {self.cost.peak_bytes / 1e9:.2g} GB of activations at batch {self.batch_size}"
        return "; ".join([f"{held}, {self.cost.flops / self.batch_size / 1e12:.3g} TFLOP an image", *self.gaps])


def estimate(config: RunConfig, models: FoundModels) -> tuple[Side, Side]:
    """A generator actor and a scorer actor of a run; whatever cannot be found out becomes a gap and no error."""
    return _generator(config, models), _scorer(config, models)


def balance(generator: Side, scorer: Side) -> str:
    """The split of one kind of GPU that keeps both sides busy, and seconds a round, should arithmetic alone decide."""
    if not (generator.flops and scorer.flops):
        return "unknown"
    ratio = generator.flops / scorer.flops
    split = f"{ratio:.2g} generators a scorer" if ratio >= 1 else f"{1 / ratio:.2g} scorers a generator"
    seconds = " + ".join(f"{side.flops / SUSTAINED:.2g}" for side in (generator, scorer) if side.flops)
    return f"{split}; a round of one row takes {seconds} s at {SUSTAINED / 1e12:.0f} TFLOP/s sustained (an assumption)"


def _generator(config: RunConfig, models: FoundModels) -> Side:
    settings = config.generators
    gaps: list[str] = []
    parts: dict[str, Any] = {}
    for name, (library, class_name) in model_parts(models.generator).items():
        with _noting(gaps, name):
            parts[name] = hollow_part(models.generator, name, library, class_name)
    cost = None
    with _noting(gaps, "a batch"):
        cost = generate_cost(settings, parts, models.generator.spec, settings.batch_size)
    if settings.cpu_offload:
        gaps.append("cpu_offload keeps one part at a time on the GPU")
    if isinstance(config.optimizer, InitNoConfig | AttendAndExciteConfig):
        gaps.append(f"{config.optimizer.method} differentiates through the U-Net, which comes on top")
    return _side(parts, settings.batch_size, cost, gaps)


def _scorer(config: RunConfig, models: FoundModels) -> Side:
    settings, method = config.scorers, config.optimizer
    gaps: list[str] = []
    made: dict[str, Any] = {}
    sources = {"scorers.model": models.scorer}
    sources |= {f"judge {judge.name}": source for judge, source in zip(config.judges, models.judges, strict=True)}
    with _noting(gaps, "vae"):
        made["vae"] = hollow_decoder(models.generator)
    for name, source in sources.items():
        with _noting(gaps, name):
            made[name] = hollow_scorer(source.source, settings.dtype)
    cost = None
    with _noting(gaps, "a batch"):
        gradient = bool(method.rounds) and method.needs_gradient
        vision = look(models.scorer.source, models.generator.spec, settings.batch_size)
        cost = score_cost(
            made["vae"], made["scorers.model"], vision, models.generator.spec, settings.batch_size, gradient
        )
    return _side(made, settings.batch_size, cost, gaps)


def _side(models: Mapping[str, Any], batch_size: int, cost: Cost | None, gaps: Iterable[str]) -> Side:
    held = models.values()
    return Side(sum(map(parameters, held)), sum(map(weight_bytes, held)), batch_size, cost, tuple(gaps))


@contextmanager
def _noting(gaps: list[str], name: str) -> Iterator[None]:
    """A file that is not here, a config its class cannot take, a model that asks for numbers: none may end a plan."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers without elements: nothing is made of them
            yield
    except Exception as error:
        gaps.append(f"without {name} ({reason(error)})")
