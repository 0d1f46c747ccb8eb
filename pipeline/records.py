"""The small typed records in which corpora, search and sinks meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One prompt of the corpus. ``id`` depends on its place and text alone, never on who works on it."""

    index: int
    id: str
    prompt: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What rebuilds the kept z_T: a fold over seeded candidates (see ``pipeline.noise.replay``).

    ``gammas[r]`` and ``indices[r]`` are round r+1's step size γ and the index of its σ*; both are as long as the
    number of rounds folded into the *kept* image. ``batch_size`` is that of the generator call which made the image:
    only 1 promises a bit-identical image, the noise is bit-identical always; ``digest`` proves it
    (``pipeline.noise.digest``).
    """

    method: str
    seed: int
    shape: tuple[int, ...]
    gammas: tuple[float, ...]
    indices: tuple[int, ...]
    candidates: int
    batch_size: int
    digest: str

    @classmethod
    def from_row(cls, fields: dict[str, Any]) -> Recipe:
        """The recipe of a written row's ``recipe`` column."""
        lists = {name: tuple(fields[name]) for name in ("shape", "gammas", "indices")}
        return cls(**(fields | lists))


@dataclass(frozen=True)
class NoiseStats:
    """Statistics of the kept z_T against N(0, I). ``norm`` is ‖z_T‖/√D; ``ks`` the Kolmogorov–Smirnov distance."""

    mean: float
    std: float
    norm: float
    ks: float


@dataclass(frozen=True)
class Result:
    """One finished row, ready to be written. Images are PNG bytes; scores are P("Yes") in [0, 1]."""

    row: Row
    image: bytes
    image_initial: bytes | None
    width: int
    height: int
    scores: tuple[float, ...]
    score: float
    rounds: int
    stop_reason: str
    judges: dict[str, tuple[float | None, float | None]]
    seed: int
    recipe: Recipe
    noise: NoiseStats

    @property
    def score_initial(self) -> float:
        return self.scores[0]


@dataclass(frozen=True)
class Failure:
    """One row given up: a dead letter. ``attempts`` holds one ``{"error", "message", "where"}`` an attempt."""

    row: Row
    attempts: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Provenance:
    """What every row of a run shares: ids and revisions of its models, and how scores were read out."""

    optimizer: str
    generator: str
    generator_revision: str
    scorer: str
    scorer_revision: str
    readout: str
