"""The small typed records in which corpora, search and sinks meet."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Row:
    """One prompt of the corpus. ``id`` depends on its place and text alone, never on who works on it.

    ``subjects`` are the things the prompt asks for, where the corpus lists them.
    """

    index: int
    id: str
    prompt: str
    extra: dict[str, Any] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """What rebuilds the kept z_T: a fold over seeded candidates (see ``replay``).

    Move k of the fold took the candidate ``indices[k]`` of round ``rounds[k]`` with step size γ ``gammas[k]``. Methods
    whose noise is no such fold leave all three empty and store the noise itself. ``steps`` and ``batch_size`` are the
    sampler steps T and the batch of the generator call which made the image: only a batch of 1 promises a
    bit-identical image, the noise is bit-identical always; ``digest`` proves it (``digest``).
    """

    method: str
    seed: int
    shape: tuple[int, ...]
    rounds: tuple[int, ...]
    gammas: tuple[float, ...]
    indices: tuple[int, ...]
    candidates: int
    steps: int
    batch_size: int
    digest: str

    @classmethod
    def from_row(cls, fields: dict[str, Any]) -> Recipe:
        """The recipe of a written row's ``recipe`` column."""
        lists = {name: tuple(fields[name]) for name in ("shape", "rounds", "gammas", "indices")}
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
    """One finished row, ready to be written. Images are PNG bytes; scores are P("Yes") in [0, 1].

    ``scores[i]``, ``steps[i]`` and ``evaluations[i]`` tell of image i, in the order they were made: its score, its
    sampler steps (fewer than T for a preview), and the U-Net evaluations it took, where one evaluation is one
    denoising step of one row, guidance included. ``rounds`` counts search rounds, so neither the first image nor a
    preview made again. ``noise_fp16`` is the kept z_T where ``recipe`` cannot rebuild it.
    """

    row: Row
    image: bytes
    image_initial: bytes | None
    width: int
    height: int
    scores: tuple[float, ...]
    steps: tuple[int, ...]
    evaluations: tuple[float, ...]
    score: float
    rounds: int
    stop_reason: str
    judges: dict[str, tuple[float | None, float | None]]
    seed: int
    recipe: Recipe
    noise: NoiseStats
    noise_fp16: bytes | None = None

    @property
    def score_initial(self) -> float:
        return self.scores[0]

    def completed(self, image: bytes, image_initial: bytes | None, noise_fp16: bytes | None) -> Result:
        """The result with its PNG bytes and, where no recipe rebuilds it, its noise."""
        return replace(self, image=image, image_initial=image_initial, noise_fp16=noise_fp16)


@dataclass(frozen=True)
class Failure:
    """One row given up: a dead letter.

    ``attempts`` holds, for each failed call that carried the row, its error's class and ``message``, the step
    (``where``), the search ``round``, the ``batch_size`` and the ``actor`` as HOST:PID.
    """

    row: Row
    attempts: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Provenance:
    """What every row of a run shares: ids and revisions of its models, and how scores were read out."""

    optimizer: str
    generator: str
    generator_revision: str
    scorer: str
    scorer_revision: str
    readout: str


def row_id(index: int, prompt: str) -> str:
    """A row's name in every file: its place in the corpus and the first 8 hex digits of its prompt's SHA-256."""
    return f"{index:08d}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def index_of(row_id: str) -> int:
    """The place in the corpus that an id begins with."""
    return int(row_id.split("-")[0])
