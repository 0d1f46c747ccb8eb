"""The results of one training: a file per arm and seed, whole or not there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from noisesmith.pipeline.bench.training.evaluate import Values
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.files import make_dir, write_atomic


@dataclass(frozen=True)
class Results:
    """What one arm with one seed has given.

    Attributes:
        steps, pictures_per_step: 0 for the untouched model.
        pictures: different ones that were trained on.
        losses: of the steps.
        seconds: of training and evaluation.
        prompts: the values of each held-out prompt, in their order; see :func:`evaluate`.
    """

    arm: str
    seed: int
    steps: int
    pictures_per_step: int
    pictures: int
    losses: list[float]
    seconds: float
    prompts: list[Values]


def write_results(path: Path, results: Results) -> None:
    make_dir(path.parent)
    write_atomic(path, (json.dumps(asdict(results), indent=1) + "\n").encode())


def read_results(path: Path) -> Results:
    """The results in a file.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return Results(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it, and run the same command again") from error
