"""A finished run to train on, made without models, and the comparison of trainings that uses it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from noisesmith.pipeline.bench import base_config, training
from noisesmith.pipeline.bench.training import TrainingDesign, TrainingOptions
from noisesmith.pipeline.records import Result, Row
from tests.bench.conftest import PROVENANCE, T, result, writing
from tests.runs import write_config

TRAINED = 8
NOUNS = ("cat", "dog", "car", "bowl")
PROMPTS = [f"a {one} and a {other}" for one in NOUNS for other in NOUNS if one != other]  # 12
OPTIONS = TrainingOptions(held_out=3, images=2, steps=2, batch_size=4)


def picture(seed: int) -> bytes:
    """A PNG of 16 × 16 random pixels."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def config_file(folder: Path, sd: Path, llava: Path, **changes: Any) -> Path:
    """A config of a run over the first :data:`TRAINED` of twelve prompts, with the built-in detector as the judge."""
    path = write_config(
        folder, sd, llava, generators={"steps": T, "num_cpus": 0.5}, scorers={"num_cpus": 0.25},
        corpus=[{"source": str(folder / "prompts.txt"), "size": TRAINED}],
        judges=[{"name": "eye", "model": "embedded/judge"}], accept={"score": 0.5}, optimizer={"rounds": 1}, **changes,
    )  # fmt: skip
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return path


def design_of(
    path: Path, options: TrainingOptions = OPTIONS, seeds: int = 1, overrides: Sequence[str] = ()
) -> TrainingDesign:
    base = base_config(path, overrides, training.TRAINING)
    return training.make_training(base, path.parent / "OUT", options, prompts=None, seeds=seeds)


def finish_run(design: TrainingDesign) -> None:
    """Write the run that is trained on.

    Row 0 is not accepted, row 1 has an accepted first image, all others an accepted kept image and a worse first one.
    """
    (trial,) = design.data.trials
    with writing(design.data, trial, PROVENANCE) as writer:
        for row in design.data.corpus.rows():
            writer.put(_searched(design, row))


def _searched(design: TrainingDesign, row: Row) -> Result:
    scores = {0: [0.1, 0.2], 1: [0.6, 0.7]}.get(row.index, [0.1, 0.9])
    made = result(design.data.trials[0], row, scores, {"eye": (0.0, 1.0)})
    return replace(made, image=picture(row.index), image_initial=picture(100 + row.index))
