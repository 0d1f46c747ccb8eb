"""``noisesmith bench``: compare search methods, verifiers, trainings on what was found, or speeds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noisesmith.pipeline.cli.common import console, interruptible, local_path
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.home import user_path

if TYPE_CHECKING:
    from noisesmith.pipeline.bench import Design, Trial

app = typer.Typer(
    help="Compare search methods, verifiers, trainings or speeds on equal terms, with intervals.",
    no_args_is_help=True,
)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG KEY=VALUE",
        help="A config for models, sampler, judges and corpus (by default the built-in ones), and overrides.",
    ),
]
Prompts = Annotated[
    int | None,
    typer.Option("--prompts", metavar="N", help="Number of prompts; by default 60, or all of CONFIG's corpus."),
]


@app.command("methods")
def bench_methods(
    arguments: Arguments = None,
    prompts: Prompts = None,
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
    chosen = bench.choose(methods, variants)
    _compare(bench.make_design(base, chosen, out, prompts=prompts, rounds=rounds, seeds=seeds))


@app.command("verifiers")
def bench_verifiers(
    arguments: Arguments = None,
    prompts: Prompts = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="M", help="Number of search rounds; by default CONFIG's, or 10.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="K", help="Number of runs per verifier.")] = 2,
    only: Annotated[
        str | None, typer.Option("--only", metavar="A,B,…", help="The variants to compare; by default all.")
    ] = None,
    variants: Annotated[
        Path | None,
        typer.Option(
            "--variants",
            metavar="FILE",
            help="YAML file of your own variants: label → {scorers: …, combine: …}.",
            parser=local_path,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to write runs and figures.", parser=local_path)
    ] = Path("runs/bench-verifiers"),
) -> None:
    """Compare ways to score images, with CONFIG's search method, on the same prompts, first noises and budgets.

    The variants are ways to ask CONFIG's first scorer; where CONFIG lists several, also each other one alone and the
    panels of all. Each variant and seed is a run in DIR/runs. The same command resumes; more variants or seeds are
    added to it.
    """
    from noisesmith.pipeline import bench

    kind = bench.VERIFIERS
    config, overrides = _config_and_overrides(arguments or [])
    base = bench.base_config(config, overrides, kind)
    chosen = bench.choose_verifiers(base, only, variants)
    rounds = base.optimizer.rounds if rounds is None else rounds
    design = bench.make_design(base, chosen, out, prompts=prompts, rounds=rounds, seeds=seeds, kind=kind)
    design.check_machine()
    _compare(design)


@app.command("training")
def bench_training(
    arguments: Arguments = None,
    prompts: Annotated[
        int | None,
        typer.Option("--prompts", metavar="N", help="Prompts to search and to train on; by default CONFIG's."),
    ] = None,
    held_out: Annotated[
        int, typer.Option("--held-out", metavar="N", help="Further prompts, which are evaluated only.")
    ] = 100,
    images: Annotated[int, typer.Option("--images", metavar="K", help="Images per held-out prompt.")] = 4,
    seeds: Annotated[int, typer.Option("--seeds", metavar="K", help="Trainings per arm.")] = 3,
    steps: Annotated[int, typer.Option("--steps", metavar="S", help="Optimizer steps of every training.")] = 200,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="B", help="Pictures per step.")] = 32,
    pictures: Annotated[
        int | None,
        typer.Option("--pictures", metavar="N", help="Different pictures per arm; by default all that every arm has."),
    ] = None,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", metavar="X", help="AdamW's, for fine-tuning.")
    ] = 1e-5,
    dpo_learning_rate: Annotated[
        float, typer.Option("--dpo-learning-rate", metavar="X", help="AdamW's, for pairs.")
    ] = 2e-5,
    beta: Annotated[float, typer.Option("--beta", metavar="X", help="β of Diffusion-DPO.")] = 500.0,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to write the run and figures.", parser=local_path)
    ] = Path("runs/bench-training"),
) -> None:
    """Train the generator on its first images, on kept ones, accepted ones and pairs, and evaluate it on other prompts.

    CONFIG's run is made in DIR/runs and exported. Judges that CONFIG's accept names select the pictures, the other ones
    evaluate. The same command resumes; more seeds are added to it.
    """
    from noisesmith.pipeline.bench import base_config, training, unfinished
    from noisesmith.pipeline.preflight import check_machine
    from noisesmith.pipeline.telemetry.console import search_progress

    options = training.TrainingOptions(
        held_out=held_out,
        images=images,
        steps=steps,
        batch_size=batch_size,
        pictures=pictures,
        learning_rate=learning_rate,
        dpo_learning_rate=dpo_learning_rate,
        beta=beta,
    )
    config, overrides = _config_and_overrides(arguments or [])
    base = base_config(config, overrides, training.TRAINING)
    check_machine(base)
    design = training.make_training(base, out, options, prompts=prompts, seeds=seeds)
    total = len(design.trainings)
    left = len(training.unfinished_arms(design))
    console.print(f"{total} trainings: {total - left} done, {left} to make")
    trials = unfinished(design.data)
    if trials:
        _drive_trials(design.data, trials)
    with interruptible():
        training.train_arms(design, search_progress, console.print)
    print_written(training.write_training(design))


@app.command("loop")
def bench_loop(
    arguments: Arguments = None,
    prompts: Annotated[
        int | None,
        typer.Option("--prompts", metavar="N", help="Prompts of each noisesmith run; by default CONFIG's."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="M", help="Search rounds of both sides; by default CONFIG's.")
    ] = None,
    processes: Annotated[
        str, typer.Option("--processes", metavar="A,B,…", help="Numbers of processes of the loop, a line for each.")
    ] = "1,2",
    loop_prompts: Annotated[
        int, typer.Option("--loop-prompts", metavar="K", help="Prompts per process of the loop and repeat.")
    ] = 2,
    truth: Annotated[
        bool, typer.Option("--truth", help="Also compare a run that stops rows early with the loop at --loop-rounds.")
    ] = False,
    loop_rounds: Annotated[
        int, typer.Option("--loop-rounds", metavar="L", help="Rounds of the loop with --truth.")
    ] = 50,
    repeats: Annotated[int, typer.Option("--repeats", metavar="R", help="How often each command is timed.")] = 5,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to write runs and figures.", parser=local_path)
    ] = Path("runs/bench-loop"),
) -> None:
    """Compare the speed of noisesmith run with the paper's loop, which searches one prompt after the other by autograd.

    Both sides have the same models, prompts and draws, and their commands take turns. Nothing else should work on the
    machine. The same command resumes; more repeats, or --truth, are added to it.
    """
    from noisesmith.pipeline.bench import base_config, loop
    from noisesmith.pipeline.preflight import check_machine

    options = loop.LoopOptions(
        processes=numbers(processes, "--processes"),
        loop_prompts=loop_prompts,
        loop_rounds=loop_rounds,
        repeats=repeats,
        truth=truth,
    )
    config, overrides = _config_and_overrides(arguments or [])
    base = base_config(config, overrides, loop.LOOP)
    check_machine(base)
    design = loop.make_loop(base, out, options, prompts=prompts, rounds=rounds)
    with interruptible():
        loop.measure(design, console.print)
    print_written(loop.write_loop(design))


def _compare(design: Design) -> None:
    """Make the runs that are missing, write the figures of all, and print the table."""
    from noisesmith.pipeline import bench

    trials = bench.unfinished(design)
    total = len(design.trials)
    console.print(f"{total} runs of {design.corpus.size} prompts: {total - len(trials)} done, {len(trials)} to make")
    if trials:
        _drive_trials(design, trials)
    print_written(bench.write_comparison(design))


def print_written(paths: list[Path]) -> None:
    """Print the table, which begins the first file, and the names of all files."""
    table, _, _ = paths[0].read_text(encoding="utf-8").partition("\n\n")
    console.print(table)
    console.print(f"written: {', '.join(map(str, paths))}")


def _config_and_overrides(words: list[str]) -> tuple[Path | None, list[str]]:
    """Split the arguments: the first may be a config instead of an override."""
    if words and ("=" not in words[0] or os.path.isfile(user_path(words[0]))):
        return local_path(words[0]), words[1:]
    return None, words


def numbers(text: str, option: str) -> tuple[int, ...]:
    """The whole numbers of a list with commas; ``option`` is named where they are none."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UserError(f"{option}: must be numbers separated by commas, but it is {text!r}") from None


def _drive_trials(design: Design, trials: list[Trial]) -> None:
    from noisesmith.actors.session import session
    from noisesmith.pipeline.bench import refuse_if_all_failed
    from noisesmith.pipeline.sinks import hold_run
    from noisesmith.pipeline.telemetry.console import ConsoleProgress

    with interruptible(), session(design.settings, console.print, design.check_resources) as runs:
        for number, trial in enumerate(trials, 1):
            progress = ConsoleProgress(console)
            with progress, hold_run(trial.config, design.corpus, progress.note) as state:
                progress.start(f"{trial.name} ({number} of {len(trials)}): loading models")
                more = number < len(trials)
                outcome, _ = runs.drive(trial.config, design.corpus, state, progress, another_follows=more)
            if not outcome.complete:
                console.print("stopped; run the same command to resume")
                raise typer.Exit(runs.exit_code)
            refuse_if_all_failed(trial, design.kind)
