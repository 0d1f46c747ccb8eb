"""``noisesmith bench``: compare search methods."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noisesmith.pipeline.cli.common import console, interruptible, local_path
from noisesmith.pipeline.storage.home import user_path

if TYPE_CHECKING:
    from noisesmith.pipeline.bench import Design, Trial

app = typer.Typer(help="Compare search methods on equal terms, with confidence intervals.", no_args_is_help=True)


@app.command("methods")
def bench_methods(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG KEY=VALUE",
            help="A config for models, sampler, judges and corpus (by default the built-in ones), and overrides.",
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option("--prompts", metavar="N", help="Number of prompts; by default 60, or all of CONFIG's corpus."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="M", help="Number of search rounds.")] = 20,
    seeds: Annotated[int, typer.Option("--seeds", metavar="K", help="Number of runs per method.")] = 2,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="A,B,…", help="The variants to compare; by default all.")
    ] = None,
    variants: Annotated[
        Path | None,
        typer.Option(
            "--variants",
            metavar="FILE",
            help="YAML file of your own variants: label → optimizer section.",
            parser=local_path,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to write runs and figures.", parser=local_path)
    ] = Path("runs/bench-methods"),
) -> None:
    """Compare search methods on the same prompts, first noises and budgets (hours for all on two cores).

    Each method and seed is a run in DIR/runs. The same command resumes; more methods or seeds are added to it.
    """
    from noisesmith.pipeline import bench
    from noisesmith.pipeline.preflight import check_machine

    config, overrides = _config_and_overrides(arguments or [])
    base = bench.base_config(config, overrides)
    check_machine(base)
    design = bench.make_design(base, bench.choose(methods, variants), out, prompts=prompts, rounds=rounds, seeds=seeds)
    trials = bench.unfinished(design)
    total = len(design.trials)
    console.print(f"{total} runs of {design.corpus.size} prompts: {total - len(trials)} done, {len(trials)} to make")
    if trials:
        _drive_trials(design, trials)
    paths = bench.write_comparison(design)
    table, _, _ = paths[0].read_text(encoding="utf-8").partition("\n\n")
    console.print(table)
    console.print(f"written: {', '.join(map(str, paths))}")


def _config_and_overrides(words: list[str]) -> tuple[Path | None, list[str]]:
    """Split the arguments: the first may be a config instead of an override."""
    if words and ("=" not in words[0] or os.path.isfile(user_path(words[0]))):
        return local_path(words[0]), words[1:]
    return None, words


def _drive_trials(design: Design, trials: list[Trial]) -> None:
    from noisesmith.actors.session import session
    from noisesmith.pipeline.bench import refuse_if_all_failed
    from noisesmith.pipeline.sinks import hold_run
    from noisesmith.pipeline.telemetry.console import ConsoleProgress

    with interruptible(), session(design.settings, console.print) as runs:
        for number, trial in enumerate(trials, 1):
            progress = ConsoleProgress(console)
            with progress, hold_run(trial.config, design.corpus, progress.note) as state:
                progress.start(f"{trial.name} ({number} of {len(trials)}): loading models")
                outcome, _ = runs.drive(trial.config, design.corpus, state, progress)
            if not outcome.complete:
                console.print("stopped; run the same command to resume")
                raise typer.Exit(runs.exit_code)
            refuse_if_all_failed(trial)
