"""``bench``: comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noisesmith.pipeline.cli.common import check_machine, console, interruptible

if TYPE_CHECKING:
    from noisesmith.pipeline.bench import Design, Trial

app = typer.Typer(help="Comparisons, fair and with intervals.", no_args_is_help=True)


@app.command("methods")
def bench_methods(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG KEY=VALUE",
            help="a config for models, sampler, judges and corpus (the built-in ones when absent), and overrides",
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option("--prompts", metavar="N", help="prompts; when absent 60, or as many as CONFIG's corpus has"),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="M", help="search rounds")] = 20,
    seeds: Annotated[int, typer.Option("--seeds", metavar="K", help="runs of each method")] = 2,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="A,B,…", help="the variants to compare; all when absent")
    ] = None,
    variants: Annotated[
        Path | None,
        typer.Option("--variants", metavar="FILE", help="YAML of own variants: label → optimizer section"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="where runs and figures go")] = Path(
        "runs/bench-methods"
    ),
) -> None:
    """Compare search methods on the same prompts, first noises and budgets (hours for all on two cores).

    Each method and seed is a run in DIR/runs; the same command resumes, and more methods or seeds add to what is there.
    """
    from noisesmith.pipeline import bench

    words = arguments or []
    named = bool(words) and ("=" not in words[0] or Path(words[0]).is_file())
    base = bench.base_config(Path(words[0]) if named else None, words[named:])
    check_machine(base)
    chosen = bench.choose(methods, variants)
    design = bench.make_design(base, chosen, out, prompts=prompts, rounds=rounds, seeds=seeds)
    left = bench.unfinished(design)
    count = len(design.trials)
    console.print(f"{count} runs of {design.corpus.size} prompts: {count - len(left)} done, {len(left)} to make")
    if left:
        _drive_trials(design, left)
    paths = bench.write_comparison(design)
    console.print(paths[0].read_text(encoding="utf-8").partition("\n\n")[0])
    console.print(f"written: {', '.join(map(str, paths))}")


def _drive_trials(design: Design, trials: list[Trial]) -> None:
    from noisesmith.actors.session import session
    from noisesmith.pipeline.bench import refuse_if_all_failed
    from noisesmith.pipeline.sinks import hold_run
    from noisesmith.pipeline.telemetry.console import ConsoleProgress

    with interruptible(), session(design.settings, console.print) as runs:
        for number, trial in enumerate(trials, 1):
            console.print(f"{trial.name} ({number} of {len(trials)}): loading models")
            with hold_run(trial.config, design.corpus, console.print) as state:
                outcome, _ = runs.drive(trial.config, design.corpus, state, ConsoleProgress(console))
            if not outcome.complete:
                console.print("stopped; run the same command to resume")
                raise typer.Exit(runs.exit_code)
            refuse_if_all_failed(trial)
