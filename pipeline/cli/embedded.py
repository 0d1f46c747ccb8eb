"""``embedded``: the built-in models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noisesmith.pipeline.cli.common import console
from noisesmith.pipeline.errors import UserError

app = typer.Typer(help="The built-in tiny models: train them anew, evaluate them.", no_args_is_help=True)


@app.command("train")
def embedded_train(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="where to write sd, vlm and judge")],
    checkpoints: Annotated[Path, typer.Option("--checkpoints", metavar="DIR", help="kept while training")] = Path(
        "checkpoints"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed of scenes, weights and batches")] = 0,
) -> None:
    """Rebuild the built-in models from a seed (hours on two cores); the same command again resumes."""
    from noisesmith.pipeline.embedded.training.train import train

    train(out, checkpoints, seed)


@app.command("evaluate")
def embedded_evaluate(
    weights_dir: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="sd, vlm and judge; the shipped ones when absent")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed of the scenes and prompts asked")] = 1,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="rendered scenes asked about")] = 2000,
    samples: Annotated[int, typer.Option("--samples", min=1, help="generated images a grammar")] = 128,
) -> None:
    """Measure the built-in models on fresh scenes and on their own images."""
    from noisesmith.pipeline.embedded.training.evaluate import WEIGHTS, evaluate, table
    from noisesmith.pipeline.models.runtime import quiet_libraries

    quiet_libraries()
    folder = weights_dir or WEIGHTS
    if not all((folder / name / "config.json").is_file() for name in ("vlm", "judge")):
        raise UserError(f"--weights: {folder} has no vlm and judge folders; give one that `embedded train --out` wrote")
    console.print(table(evaluate(folder, seed, scenes, samples)))
