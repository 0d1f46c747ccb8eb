"""``noisesmith bench gpu``: measure rounds of full-size models on one GPU."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from noisesmith.pipeline.cli.bench import print_written
from noisesmith.pipeline.cli.common import console, interruptible, local_path
from noisesmith.pipeline.errors import UserError


class Device(StrEnum):
    """Where models run."""

    CUDA = "cuda"
    CPU = "cpu"


def bench_gpu(
    cells: Annotated[
        Path | None,
        typer.Argument(
            metavar="CELLS",
            help="A YAML file of models and batch sizes; by default published models with random weights.",
            parser=local_path,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="M", help="Begin no further round after this time.")
    ] = 8.0,
    device: Annotated[
        Device, typer.Option("--device", help="cpu only tries the command, with CELLS of small models.")
    ] = Device.CUDA,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to write the figures.", parser=local_path)
    ] = Path("runs/bench-gpu"),
) -> None:
    """Measure seconds per search round of full-size models on one GPU, and where they go, next to the paper's loop.

    A few sampler steps are timed, and extrapolated to all of them. Each cell, which is a pair of models at one batch
    size, is saved when it is measured; the same command goes on with those that are left. Ray is not used.
    """
    from noisesmith.pipeline.bench import gpu

    if not minutes > 0:
        raise UserError(f"--minutes: must be above 0, but it is {minutes:g}")
    if cells is None and device is Device.CPU:
        raise UserError("--device: the built-in models are too large for a CPU; give a CELLS file with small ones")
    bench = gpu.Bench(gpu.read_pairs(cells or gpu.CELLS), out, minutes, device.value)
    gpu.check_bench(bench)
    with interruptible("run the same command to go on"):
        gpu.run_bench(bench, console.print)
    print_written(gpu.write_gpu(bench.cells(), out, device.value))
