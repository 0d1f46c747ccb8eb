"""Small typed records that corpora, search and sinks exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Question:
    """One question about an image, as it is asked, and the answer that an image which shows its prompt gets."""

    question: str
    answer: str


@dataclass(frozen=True)
class Atom:
    """A question about a part of the prompt, and how sure the scorers are of its answer: P(answer) in [0, 1]."""

    question: str
    answer: str
    score: float


@dataclass(frozen=True)
class Row:
    """One prompt of the corpus.

    ``id`` depends only on the prompt's index and text. ``extra`` holds the corpus's other columns, by name.
    Where the corpus lists them, ``subjects`` are the things that the prompt asks for, ``questions`` ask for its parts,
    and ``edits`` are prompts that its images do not show. A row that continues the search of another one has its
    ``parent``. ``resolution`` is the width and the height of its images in pixels; ``None`` where the corpus names no
    columns for it, and the images have the generator's size.
    """

    index: int
    id: str
    prompt: str
    extra: dict[str, object] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    edits: tuple[str, ...] = ()
    parent: Parent | None = None
    resolution: tuple[int, int] | None = None

    @property
    def search_id(self) -> str:
        """The id of the row that began this row's search: all its noises are drawn with it."""
        return self.id if self.parent is None else self.parent.search_id

    @property
    def earlier_rounds(self) -> int:
        """How many rounds the search had taken before this row."""
        return 0 if self.parent is None else self.parent.rounds


class CheckedCorpus(Protocol):
    """What a run directory needs to know of a corpus; ``noisesmith.pipeline.prompts.Corpus`` provides it.

    ``digest`` identifies prompts, extra columns, their types and the order; ``first`` is the index of the first row in
    its run, and ``extra_schema`` holds the Arrow types of the corpus's own columns. ``size`` is the number of rows that
    the run makes, and ``whole`` that of all rows: other runs make the rest where this one is a partition.
    ``resolutions`` are the sizes of images, width and height in pixels, that rows ask for.
    """

    @property
    def first(self) -> int: ...

    @property
    def digest(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def whole(self) -> int: ...

    @property
    def extra_schema(self) -> pa.Schema: ...

    @property
    def resolutions(self) -> Collection[tuple[int, int]]: ...

    def rows(self, start: int = 0, stop: int | None = None, skip: Container[int] = ()) -> Iterator[Row]: ...


# Names how `noise.NoiseKey` draws. Another way to draw needs another name, and keeps this one for written recipes.
NOISE_GENERATOR = "philox4x64-10, key BLAKE2b-128, float32 ziggurat of NumPy 2.0 to 2.4"


@dataclass(frozen=True)
class Recipe:
    """How to rebuild the kept z_T from seeded candidates (see ``noisesmith.pipeline.noise.replay``).

    The candidates are draws of :data:`NOISE_GENERATOR`.

    Starting from the row's first noise, move k took the candidate ``indices[k]`` of round ``rounds[k]`` with step size
    γ ``gammas[k]``. Methods whose noise cannot be rebuilt this way leave all three empty, and the row stores the noise
    itself; of a first noise the stored copy is rounded, and the recipe rebuilds it. ``steps`` and ``batch_size`` are
    the sampler steps T and the batch size of the generator call that made the image; of a probe that was finished,
    which two calls have made, the larger batch size. The noise is always rebuilt bit for bit, and ``digest`` proves it;
    the image only at batch size 1.
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
        """Build the recipe from a written row's ``recipe`` column."""
        lists = {name: tuple(fields[name]) for name in ("shape", "rounds", "gammas", "indices")}
        return cls(**{**fields, **lists})


@dataclass(frozen=True)
class Parent:
    """The row from which another one goes on: its id, the recipe of its kept noise, and its last search round.

    ``search_id`` is the id of the row that began the search, with which all its noises are drawn.
    """

    id: str
    search_id: str
    recipe: Recipe
    rounds: int


@dataclass(frozen=True)
class NoiseStats:
    """Statistics of the kept z_T against N(0, I): ``norm`` is ‖z_T‖/√D, ``ks`` the Kolmogorov–Smirnov distance."""

    mean: float
    std: float
    norm: float
    ks: float


@dataclass(frozen=True)
class Result:
    """One finished row, ready to be written. Images are PNG bytes; scores are P("Yes") in [0, 1].

    ``scores[i]``, ``steps[i]`` and ``evaluations[i]`` describe image i, in the order the images were made: its score,
    its sampler steps (fewer than T for a preview or a probe), and the U-Net evaluations it took. One evaluation is
    one denoising step of one row, guidance included. ``rounds`` counts search rounds: neither the first image nor a
    preview or a probe that is made at full steps is one. ``noise_fp16`` is the kept z_T where ``recipe`` cannot rebuild
    it. ``prompt_tokens_cut`` counts the tokens at the prompt's end that no text encoder of the generator has read.
    Where several scorers steered, ``members`` has each one's scores of the first and the kept image. ``atoms`` are
    those of the kept image, where a scorer asks questions about parts of the prompt. Where the run keeps more images
    than these two, ``images`` has one entry per image made: its PNG bytes, or ``None`` where it is not kept.
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
    prompt_tokens_cut: int | None = None
    members: dict[str, tuple[float, float]] = field(default_factory=dict)
    atoms: tuple[Atom, ...] = ()
    images: tuple[bytes | None, ...] = ()

    @property
    def score_initial(self) -> float:
        return self.scores[0]

    def completed(
        self, image: bytes, image_initial: bytes | None, noise_fp16: bytes | None, listed: Mapping[int, bytes]
    ) -> Result:
        """The result with its PNG bytes and, where no recipe rebuilds it, its noise.

        Args:
            listed: the images that go into ``images``, by number; none where the run keeps no more than two.
        """
        images = tuple(map(listed.get, range(len(self.scores)))) if listed else ()
        return replace(self, image=image, image_initial=image_initial, noise_fp16=noise_fp16, images=images)


@dataclass(frozen=True)
class Failure:
    """One row that failed for good: the content of its dead letter.

    ``attempts`` has one entry per failed call that carried the row: the class of its ``error`` and the ``message``, its
    ``traceback``, the stage (``where``), the search ``round``, the ``batch_size`` and the ``actor`` as HOST:PID.
    """

    row: Row
    attempts: tuple[Mapping[str, object], ...]


@dataclass(frozen=True)
class Provenance:
    """What all rows of a run share: the ids and revisions of its models, how it samples, and how scores were read out.

    The last three are ``None`` in what is read from a run of an older version.
    """

    optimizer: str
    generator: str
    generator_revision: str
    scorer: str
    scorer_revision: str
    readout: str
    scheduler: str | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None

    @classmethod
    def columns_in(cls, held: Container[str]) -> list[str]:
        """The columns of a run that have it; ``held`` are all that the run has."""
        return [name for name in cls.__dataclass_fields__ if name in held]


def row_id(index: int, prompt: str) -> str:
    """Return a row's name in every file: its index in the corpus and the first 8 hex digits of its prompt's SHA-256."""
    return f"{index:08d}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def with_index(row_id: str, index: int) -> str:
    """Return the id of a row with the same prompt and another index."""
    return f"{index:08d}-{row_id.partition('-')[2]}"


def index_of(row_id: str) -> int:
    """Return the index in the corpus with which an id begins."""
    return int(row_id.split("-")[0])
