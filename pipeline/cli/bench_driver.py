"""``noisesmith bench driver``: see how many GPUs one driver keeps busy."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from noisesmith.pipeline.cli.bench import numbers, print_written
from noisesmith.pipeline.cli.common import console, interruptible, local_path
from noisesmith.pipeline.errors import UserError

if TYPE_CHECKING:
    from noisesmith.pipeline.bench.driver import DriverOptions, Simulated


def bench_driver(
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="A,B,…", help="Numbers of simulated GPUs, one simulation for each.")
    ] = "1,64,1024",
    rows: Annotated[
        int | None, typer.Option("--rows", metavar="N", help="Prompts to search; by default enough for a steady state.")
    ] = None,
    call_seconds: Annotated[
        float, typer.Option("--call-seconds", metavar="S", help="Mean time of a generate or a score call.")
    ] = 2.0,
    spread: Annotated[
        float, typer.Option("--spread", metavar="X", help="Calls take from 1 - X to 1 + X times that.")
    ] = 0.3,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="B", help="Rows per call.")] = 8,
    processes: Annotated[
        int, typer.Option("--processes", metavar="P", help="Processes that hold the simulated workers.")
    ] = 2,
    repeats: Annotated[int, typer.Option("--repeats", metavar="K", help="Simulations of each number of GPUs.")] = 1,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to write the figures.", parser=local_path)
    ] = Path("runs/bench-driver"),
) -> None:
    """Measure how many GPUs one driver keeps busy, with workers that only wait, on this machine.

    The driver, its queues and the object store are real; no model is loaded. The arrays have the sizes of Stable
    Diffusion 1.5, and need shared memory: about 0.4 MiB per row in flight, of which there are two batches per worker.
    """
    from noisesmith.pipeline.bench.driver import DriverOptions, write_driver

    if repeats < 1:
        raise UserError(f"--repeats: must be at least 1, but it is {repeats}")
    asked = []
    for number in numbers(gpus, "--gpus"):
        for seed in range(repeats):
            asked.append(DriverOptions(number, rows, call_seconds, spread, batch_size, processes, seed))
    simulations: list[Simulated] = []
    for options in asked:
        simulations.append(_simulate(options))
        paths = write_driver(simulations, out)
    print_written(paths)


def _simulate(options: DriverOptions) -> Simulated:
    from noisesmith.actors.simulation import simulate
    from noisesmith.pipeline.telemetry.console import ConsoleProgress

    progress = ConsoleProgress(console)
    with interruptible("nothing of this simulation is kept"), TemporaryDirectory() as folder, progress:
        progress.start(f"{options.gpus} GPUs, simulation {options.seed + 1}: starting")
        return simulate(options, Path(folder), progress)
