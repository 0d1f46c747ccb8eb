"""``noisesmith embedded``: train and evaluate the built-in models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from noisesmith.pipeline.cli.common import console, local_path
from noisesmith.pipeline.errors import UserError

TRAINING = "noisesmith.pipeline.embedded.training"

app = typer.Typer(help="Train the built-in tiny models, or evaluate them.", no_args_is_help=True)


@app.command("train")
def embedded_train(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Where to write the models' folders.", parser=local_path),
    ],
    checkpoints: Annotated[
        Path,
        typer.Option(
            "--checkpoints", metavar="DIR", help="Where to keep checkpoints while training.", parser=local_path
        ),
    ] = Path("checkpoints"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of scenes, weights and batches.")] = 1,
    stages: Annotated[
        str | None, typer.Option("--stages", metavar="NAME,…", help="Which stages to train; by default all, in order.")
    ] = None,
) -> None:
    """Train the built-in models on from those of version 1 (hours on two cores). The same command resumes."""
    _require_training()
    from noisesmith.pipeline.embedded.training.train import STAGES, train

    chosen = stages.split(",") if stages else STAGES
    try:
        train(out, checkpoints, seed, stages=chosen)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"--stages: {error}") from error


@app.command("evaluate")
def embedded_evaluate(
    weights_dir: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="DIR",
            help="Folder that `embedded train` wrote; by default the built-in one.",
            parser=local_path,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the scenes and prompts.")] = 1,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Number of rendered scenes to ask about.")] = 2000,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Number of images to generate per grammar.")] = 128,
) -> None:
    """Measure the built-in models on new scenes and on images that they generate."""
    _require_training()
    from noisesmith.pipeline.embedded import WEIGHTS
    from noisesmith.pipeline.embedded.training.evaluate import evaluate
    from noisesmith.pipeline.embedded.training.tables import tables
    from noisesmith.pipeline.models.runtime import quiet_libraries

    quiet_libraries()
    folder = weights_dir or WEIGHTS
    for name in ("vlm", "judge"):  # version 1 has no more
        if not (folder / name / "config.json").is_file():
            raise UserError(
                f"--weights: {folder} has no vlm and judge folders; give one that `embedded train --out` wrote"
            )
    console.print(tables(evaluate(folder, seed, scenes, samples)))


def _require_training() -> None:
    """
    Raises:
        UserError: noisesmith was installed without its training code, which is in the repository only.
    """
    if find_spec(TRAINING) is None:
        raise UserError(
            "embedded: the code that trains and evaluates the built-in models is not part of the installed package; "
            "clone the repository of noisesmith and run the command there"
        )
