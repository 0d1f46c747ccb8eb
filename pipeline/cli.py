"""The ``noisesmith`` command."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import __version__
from pipeline.config import RunConfig, load_config
from pipeline.errors import RunError, UserError, one_line
from pipeline.stores import is_remote, to_path

if TYPE_CHECKING:
    from pipeline.bench import Bench, Trial
    from pipeline.prompts import Corpus
    from pipeline.sinks import RunState

app = typer.Typer(
    help="Turn a list of prompts into a dataset of images that really show what their prompts say.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
embedded_app = typer.Typer(help="The built-in tiny models: train them anew, evaluate them.", no_args_is_help=True)
app.add_typer(embedded_app, name="embedded")
bench_app = typer.Typer(help="Comparisons, fair and with intervals.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config, such as configs/quickstart.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="overrides, such as optimizer.rounds=10")
]
OutDir = Annotated[str | None, typer.Option("--out", metavar="DIR", help="run directory (output.dir)")]


def _place(text: str) -> Path:
    try:
        return to_path(text)
    except ValueError as error:
        raise UserError(f"RUN: {error}") from None


RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="a run directory, or its URL", parser=_place)]


@app.command()
def run(config: ConfigPath, overrides: Overrides = None, out: OutDir = None) -> None:
    """Search every prompt of the corpus and write the dataset.

    The same command again resumes where the run stopped.
    Ctrl-C finishes the rows in flight and stops; a second Ctrl-C stops at once.
    """
    from pipeline.report import renew_report
    from pipeline.sinks import hold_run

    settings = _settings(config, overrides, out)
    corpus = _checked_corpus(settings)
    with _interruptible(), hold_run(settings, corpus, console.print) as state:
        if len(state.done) == corpus.size:
            renew_report(state.run_dir, settings)
            console.print(f"all {corpus.size} rows of {state.run_dir} are done; nothing to run")
            _hint(state.run_dir)
        else:
            _drive(settings, corpus, state)


def _checked_corpus(settings: RunConfig) -> Corpus:
    """The corpus of a run whose models and machine are there."""
    from pipeline.preflight import find_models
    from pipeline.prompts import open_corpus

    find_models(settings)
    _check_machine(settings)
    return open_corpus(settings)


def _drive(settings: RunConfig, corpus: Corpus, state: RunState) -> None:
    from actors.session import session
    from pipeline.progress import Progress
    from pipeline.report import summary_table

    progress = Progress(console)
    progress.note("starting Ray and loading models")
    with session(settings, progress.note) as runs:
        outcome, summary = runs.drive(settings, corpus, state, progress)
    console.print(summary_table(summary))
    if not outcome.complete:
        console.print("stopped; run the same command to resume")
        raise typer.Exit(runs.exit_code)
    if failed := progress.tally.failed.total():
        console.print(
            f"{failed} rows failed; why is in {state.run_dir}/failed/\n"
            f"to try them again: noisesmith retry {state.run_dir}"
        )
        if not progress.tally.rows:
            raise typer.Exit(1)
    _hint(state.run_dir)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what it holds is released."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(128 + number)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        console.print("stopped at once; run the same command to resume")
        code = stopped.args[0] if stopped.args else 128 + signal.SIGINT
        # while Ray starts it exits by itself on SIGTERM, with the signal's number
        raise typer.Exit(code if isinstance(stopped, KeyboardInterrupt) else 128 + code) from None


def _hint(run_dir: Path) -> None:
    source = repr(str(run_dir))
    if is_remote(run_dir):
        kind, files = ("parquet", "*.parquet") if any(run_dir.glob("data/*.parquet")) else ("webdataset", "*.tar")
        source = f"{kind!r}, data_files='{run_dir}/data/{files}'"
    console.print(
        f"dataset: {run_dir}\n"
        f'next: python -c "from datasets import load_dataset; print(load_dataset({source}))"\n'
        f"      noisesmith verify {run_dir}"
    )


@app.command()
def retry(run_dir: RunDir, overrides: Overrides = None) -> None:
    """Try the rows again that a run has given up, with whatever else it lacks.

    Overrides may change what decides where and how fast rows are made, such as generators.batch_size=1.
    """
    from pipeline.sinks import hold_run, reopen_failed

    settings = _run_config(run_dir, overrides)
    corpus = _checked_corpus(settings)
    with _interruptible(), hold_run(settings, corpus, console.print) as opened:
        state, again = reopen_failed(settings, corpus, opened)
        if len(state.done) == corpus.size:
            console.print(f"no row of {run_dir} has failed; nothing to retry")
            return
        console.print(f"{again} failed rows are tried again")
        _drive(settings, corpus, state)


@app.command()
def plan(config: ConfigPath, overrides: Overrides = None, out: OutDir = None) -> None:
    """Validate everything and print what would run and what it takes; load no model, write nothing."""
    from pipeline.cost import balance, estimate
    from pipeline.preflight import find_models
    from pipeline.prompts import open_corpus
    from pipeline.sinks import check_run_dir

    settings = _settings(config, overrides, out)
    models = find_models(settings)
    _check_machine(settings)
    corpus = open_corpus(settings)
    done = check_run_dir(settings, corpus)
    generators, scorers, optimizer = settings.generators, settings.scorers, settings.optimizer
    images, evaluations = (corpus.size * most for most in settings.most_per_row())
    generating, scoring = estimate(settings, models)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = {
        "rows": f"{corpus.size:,}" + (f" ({done:,} already done)" if done else ""),
        "run directory": str(settings.run_dir),
        "shards": f"{-(-corpus.size // settings.output.rows_per_shard)} of {settings.output.rows_per_shard} rows, "
        + " + ".join(settings.output.formats),
        "generator": f"{models.generator.id} ({models.generator.class_name}), {models.spec.width}×{models.spec.height} "
        f"px, latents {'×'.join(map(str, models.spec.shape))}, {generators.scheduler} {generators.steps} steps",
        "scorer": f"{models.scorer.id} ({models.scorer.class_name}), readout {scorers.readout}",
        "judges": ", ".join(
            f"{judge.name} ({source.class_name})" for judge, source in zip(settings.judges, models.judges, strict=True)
        )
        or "none",
        "optimizer": f"{optimizer.method}, {optimizer.rounds} rounds"
        + (f" of {optimizer.preview.steps} steps" if optimizer.preview else ""),
        "actors": f"{generators.count} generators ({generators.num_gpus:g} GPU, {generators.num_cpus:g} CPU each), "
        f"{scorers.count} scorers ({scorers.num_gpus:g} GPU, {scorers.num_cpus:g} CPU each)",
        "at most": f"{images:,} images, {evaluations:,} U-Net evaluations",
        "a generator": str(generating),
        "a scorer": str(scoring),
        "balance": balance(generating, scoring),
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console.print(table)


@app.command()
def replay(
    run_dir: RunDir,
    row_id: Annotated[str, typer.Argument(metavar="ID", help="a row's id")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="where to write the image")] = None,
) -> None:
    """Rebuild one row's noise and image from its recipe, and compare them with what was written."""
    from pipeline.models import quiet_libraries
    from pipeline.replay import replay_row

    quiet_libraries()
    result = replay_row(run_dir, _run_config(run_dir), row_id)
    path = out or Path(f"{row_id}.png")
    try:
        path.write_bytes(result.png)
    except OSError as error:
        raise UserError(f"--out: {path} cannot be written ({error.strerror}); give another file") from None
    console.print(f"prompt  {result.prompt}")
    console.print(
        f"noise   {'bit-identical' if result.noise_identical else 'DIFFERS'} ({len(result.recipe.gammas)} rounds)"
    )
    if result.image_identical:
        console.print("image   identical")
    else:
        console.print(
            f"image   differs by at most {result.max_difference} of 255 grey levels, {result.mean_difference:.4f} on "
            f"average (made in a batch of {result.recipe.batch_size}; only batch size 1 replays bit for bit)"
        )
    if result.revision_then != result.revision_now:
        console.print(f"model   was {result.revision_then}, is now {result.revision_now}")
    console.print(f"written {path}")
    if not result.noise_identical:
        raise typer.Exit(1)


@app.command()
def verify(
    run_dir: RunDir,
    replay: Annotated[int, typer.Option("--replay", metavar="N", min=0, help="rows whose noise is rebuilt")] = 2,
    repair: Annotated[bool, typer.Option("--repair", help="keep what is sound, and open damaged shards again")] = False,
) -> None:
    """Check a run's files against its manifest: hashes, row counts, unique ids, readable images, recipes.

    Nothing is written, and the exit code is 1 where something is wrong, unless --repair is given.
    """
    from pipeline.sinks import sample_rows, verify_run

    settings = _run_config(run_dir)
    sample = sample_rows(run_dir, replay) if settings.replayable else frozenset()
    if repair:
        _repair(settings, sample)
        return
    problems = verify_run(run_dir, sample)
    for problem in problems:
        console.print(problem)
    if problems:
        console.print(_problems(len(problems)))
        raise typer.Exit(1)
    console.print(f"{run_dir}: all is well; noise rebuilt for {len(sample)} rows")


def _repair(settings: RunConfig, sample: Collection[int]) -> None:
    from pipeline.prompts import open_corpus
    from pipeline.sinks import repair_run

    corpus, run_dir = open_corpus(settings), settings.run_dir
    with _interruptible():
        found, state = repair_run(settings, corpus, console.print, sample)
    for problem in found.problems:
        console.print(problem)
    console.print(f"{_problems(len(found.problems))} repaired: what is sound was kept")
    if missing := corpus.size - len(state.done):
        console.print(f"run the same config again to make {missing} rows anew, or: noisesmith retry {run_dir}")


def _problems(count: int) -> str:
    return "1 problem" if count == 1 else f"{count} problems"


@app.command()
def status(
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """Say how a run fares, while it works or after it ended or died; write nothing."""
    from pipeline.progress import clock
    from pipeline.status import read_status

    found = read_status(run_dir)
    if as_json:
        console.print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        return
    owner, running = (f" ({found.owner})" if found.owner else ""), found.state == "running"
    lines = {
        "state": found.state + owner + (f": {found.message}" if found.message and not running else ""),
        "rows": f"{found.rows_done:,} of {found.rows:,} done",
        "shards": f"{found.shards_committed:,} of {found.shards:,} committed",
        "failed": ", ".join(f"{error} {count:,}" for error, count in found.failed.items()) or "none",
    }
    if found.scores is not None:
        lines["score"] = "{:.3f} → {:.3f}".format(*found.scores)
    if found.updated_seconds is not None:
        lines["rate"] = f"{found.rows_per_minute:g} rows/min"
        if running:
            lines["rate"] += f", ETA {clock(found.eta_seconds)}" if found.eta_seconds is not None else ""
            lines["in flight"] = f"{found.in_flight} rows"
            lines["queues"] = ", ".join(f"{step} {length}" for step, length in (found.queues or {}).items())
        lines["busy"] = ", ".join(f"{side} {share:.0%}" for side, share in (found.busy or {}).items())
        lines["updated"] = f"{clock(found.updated_seconds)} ago"
    for name, value in lines.items():
        console.print(f"{name:<10}{value}")


@embedded_app.command("train")
def embedded_train(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="where to write sd, vlm and judge")],
    checkpoints: Annotated[Path, typer.Option("--checkpoints", metavar="DIR", help="kept while training")] = Path(
        "checkpoints"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed of scenes, weights and batches")] = 0,
) -> None:
    """Rebuild the built-in models from a seed (hours on two cores); the same command again resumes."""
    from pipeline.embedded.train import train

    train(out, checkpoints, seed)


@embedded_app.command("evaluate")
def embedded_evaluate(
    weights_dir: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="sd, vlm and judge; the shipped ones when absent")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed of the scenes and prompts asked")] = 1,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="rendered scenes asked about")] = 2000,
    samples: Annotated[int, typer.Option("--samples", min=1, help="generated images a grammar")] = 128,
) -> None:
    """Measure the built-in models on fresh scenes and on their own images."""
    from pipeline.embedded.evaluate import WEIGHTS, evaluate, table
    from pipeline.models import quiet_libraries

    quiet_libraries()
    folder = weights_dir or WEIGHTS
    if not all((folder / name / "config.json").is_file() for name in ("vlm", "judge")):
        raise UserError(f"--weights: {folder} has no vlm and judge folders; give one that `embedded train --out` wrote")
    console.print(table(evaluate(folder, seed, scenes, samples)))


@bench_app.command("methods")
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
    from pipeline import bench

    words = arguments or []
    named = bool(words) and ("=" not in words[0] or Path(words[0]).is_file())
    base = bench.base_config(Path(words[0]) if named else None, words[named:])
    _check_machine(base)
    chosen = bench.choose(methods, variants)
    plan = bench.plan_bench(base, chosen, out, prompts=prompts, rounds=rounds, seeds=seeds)
    left = bench.unfinished(plan)
    count = len(plan.trials)
    console.print(f"{count} runs of {plan.corpus.size} prompts: {count - len(left)} done, {len(left)} to make")
    if left:
        _drive_trials(plan, left)
    paths = bench.write_comparison(plan)
    console.print(paths[0].read_text(encoding="utf-8").partition("\n\n")[0])
    console.print(f"written: {', '.join(map(str, paths))}")


def _drive_trials(plan: Bench, trials: list[Trial]) -> None:
    from actors.session import session
    from pipeline.bench import refuse_if_all_failed
    from pipeline.progress import Progress
    from pipeline.sinks import hold_run

    with _interruptible(), session(plan.settings, console.print) as runs:
        for number, trial in enumerate(trials, 1):
            console.print(f"{trial.name} ({number} of {len(trials)}): loading models")
            with hold_run(trial.config, plan.corpus, console.print) as state:
                outcome, _ = runs.drive(trial.config, plan.corpus, state, Progress(console))
            if not outcome.complete:
                console.print("stopped; run the same command to resume")
                raise typer.Exit(runs.exit_code)
            refuse_if_all_failed(trial)


def _settings(config: Path, overrides: list[str] | None, out: str | None) -> RunConfig:
    extra = [] if out is None else [f"output.dir={out!r}"]
    return load_config(config, [*(overrides or []), *extra])


def _check_machine(settings: RunConfig) -> None:
    from pipeline.preflight import check_resources, machine_resources

    if settings.ray.address is None:
        check_resources(settings, machine_resources(), "this machine")


def _run_config(run_dir: Path, overrides: list[str] | None = None) -> RunConfig:
    """The config a run was made from, as it is to be read where the run lies now."""
    from pipeline.sinks.manifest import salvage_manifest

    salvage_manifest(run_dir)
    return _settings(run_dir / "config.yaml", overrides, str(run_dir))


def _version(value: bool) -> None:
    if value:
        console.print(f"noisesmith {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and exit code 2."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where it is not UTF-8, a × must not end a run
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    try:
        app()
    except UserError as error:
        errors.print(f"error: {one_line(error)}")
        sys.exit(2)
    except RunError as error:
        errors.print(f"error: {one_line(error)}; what is written is safe, run the same command to resume")
        sys.exit(1)
