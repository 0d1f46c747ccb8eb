"""``noisesmith plan``: check a run, and show what it would do and take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noisesmith.pipeline.cli.common import (
    ConfigPath,
    OutDir,
    Overrides,
    PartitionOption,
    console,
    local_path,
    read_settings,
)
from noisesmith.pipeline.config import RunConfig, calibration_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sized

    from noisesmith.pipeline.config import Actors
    from noisesmith.pipeline.preflight import FoundModels
    from noisesmith.pipeline.prompts import Corpus
    from noisesmith.pipeline.scorers import FoundScorer


def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    out: OutDir = None,
    partition: PartitionOption = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Load the models, time both sides, and store what was measured.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Where --calibrate stores it (CONFIG.calibration.json); without --calibrate, the file to read.",
            parser=local_path,
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", metavar="P", help="Of one GPU for an hour; gives the cost of 1,000 rows.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the tokens of prompts, memory and work.")] = False,
) -> None:
    """Check everything, and show what would run and what it takes. Loads no model and writes nothing.

    What is checked is printed first. The tokens of prompts, memory and work need the models' libraries, which take
    seconds to import; --quick leaves them out.

    --calibrate does both: it loads the models, times calls of generators and scorers on this machine at growing batch
    sizes, writes the figures down, and shows the best split of GPUs, rows per hour and their cost. placement: auto uses
    what it stores.
    """
    from noisesmith.pipeline.cli.speeds import check_options, measure, print_speeds, read_earlier
    from noisesmith.pipeline.preflight import check_run
    from noisesmith.pipeline.sinks import check_run_dir
    from noisesmith.pipeline.speed.measure import check_measurable
    from noisesmith.pipeline.speed.placement import place
    from noisesmith.pipeline.speed.record import check_writable

    check_options(calibrate, calibration, price, quick)
    settings = read_settings(config, overrides, out, partition)
    found, corpus = check_run(settings)
    file = calibration_file(config) if calibration is None else calibration
    speeds = None
    if calibrate:
        check_measurable(settings)
        check_writable(file)
    elif calibration is not None:
        speeds = read_earlier(file, settings, found)
    else:
        settings = place(settings, console.print, found)
    done = check_run_dir(settings, corpus)
    _print_plan(settings, found, corpus, done, quick)
    if calibrate:
        speeds = measure(settings, found, corpus, file)
    if speeds is not None:
        print_speeds(settings, speeds, price)


def _print_plan(settings: RunConfig, found: FoundModels, corpus: Corpus, done: int, quick: bool) -> None:
    """Print what is checked, then what only the models' libraries know, which are imported in between."""
    from noisesmith.pipeline.cli.speeds import print_lines
    from noisesmith.pipeline.cost.sizes import sizes_of
    from noisesmith.pipeline.models.runtime import import_libraries

    asked = {resolution: those.rows for resolution, those in corpus.resolutions.items()}
    sizes = sizes_of(found, asked, corpus.whole)
    models = sizes.at_largest(found)
    lines = _corpus_lines(corpus) | _output_lines(settings, corpus, done) | _model_lines(settings, models)
    if len(sizes.rows) > 1:
        lines["sizes"] = str(sizes)
    lines |= _weighting_lines(corpus) | _question_lines(settings, corpus)
    lines |= _work_lines(settings, models, corpus.size)
    scorers = _scorers_by_field(settings, models)
    width = max(map(len, [*lines, *map(_prompts_for, ["generators.model", *scorers])]))
    print_lines(lines, width)
    if not quick:
        import_libraries()
        print_lines(_length_lines(settings, models, scorers, corpus), width)
        print_lines(_cost_lines(settings, models), width)


def _corpus_lines(corpus: Corpus) -> dict[str, str]:
    """What is read, and how, as name → text."""
    sources = []
    for name, rows, form in corpus.sections:
        sources.append(f"{name} ({form}, rows: {rows:,})")
    columns = []
    for column in corpus.extra_schema:
        kind = "JSON text" if column.name in corpus.as_json else str(column.type)
        columns.append(f"{column.name} {kind}")
    return {"corpus": "; ".join(sources), "columns": ", ".join(columns) or "none except the prompt"}


def _output_lines(settings: RunConfig, corpus: Corpus, done: int) -> dict[str, str]:
    """What is written, as name → text."""
    from noisesmith.pipeline.acceptance import rule_text

    rows = f"{corpus.size:,}"
    if done:
        rows += f" ({done:,} already done)"
    output = settings.output
    total = shards = math.ceil(corpus.whole / output.rows_per_shard)
    if settings.partition is not None:
        shards = len(settings.partition.shards(total))
    lines = {
        "rows": rows,
        "run directory": str(settings.run_dir),
        "shards": f"{shards} of {output.rows_per_shard} rows, {' + '.join(output.formats)}",
    }
    if settings.partition is not None:
        lines["partition"] = f"{settings.partition} of {corpus.whole:,} rows in {total} shards"
    if settings.accept is not None:
        lines["accepted"] = rule_text(settings.accept)
    return lines


def _model_lines(settings: RunConfig, models: FoundModels) -> dict[str, str]:
    """Which models are used and how, as name → text."""
    generator = models.generator.source
    spec = models.generator.spec
    shape = "×".join(map(str, spec.shape))
    judges = []
    for judge, found in zip(settings.judges, models.judges, strict=True):
        judges.append(f"{judge.name} ({found.source.class_name})")
    return {
        "generator": f"{generator.id} ({generator.class_name}), {spec.width}×{spec.height} px, latents {shape}, "
        f"{settings.generators.scheduler} {settings.generators.steps} steps",
        **_scorer_lines(settings, models),
        "judges": ", ".join(judges) or "none",
    }


def _scorer_lines(settings: RunConfig, models: FoundModels) -> dict[str, str]:
    """Each scorer and its part in the panel, as name → text."""
    panel = settings.panel
    lines = {}
    for member, found in zip(panel, models.scorers, strict=True):
        parts = [f"{found.source.id} ({found.source.class_name})", f"readout {member.readout}"]
        if member.asks == "questions":
            parts.append("asks questions about parts of the prompt")
        if len(panel) > 1:
            parts.append(f"weight {member.weight:g}")
        if not member.gradient:
            parts.append("counts in the score alone")
        if member.shares is not None:
            parts.append(f"in the actors of {member.shares}")
        lines[_title("scorer", member.name, panel)] = ", ".join(parts)
    if len(panel) > 1:
        lines["combined by"] = settings.combine or "mean"
    return lines


def _title(what: str, name: str, among: Sized) -> str:
    """A line's name, with that of a scorer where there are several."""
    return f"{what} {name}" if len(among) > 1 else what


def _scorers_by_field(settings: RunConfig, models: FoundModels) -> dict[str, FoundScorer]:
    """The scorers and the judges by their fields."""
    scorers = {found.source.field: found for found in models.scorers}
    for judge, found in zip(settings.judges, models.judges, strict=True):
        scorers[f"judges.{judge.name}"] = found
    return scorers


def _length_lines(
    settings: RunConfig, models: FoundModels, scorers: Mapping[str, FoundScorer], corpus: Corpus
) -> dict[str, str]:
    """How much of the prompts each model reads, as name → text."""
    from noisesmith.pipeline.lengths import list_lengths

    listed = list_lengths(settings, models.generator, scorers, corpus)
    return {_prompts_for(field): "; ".join(texts) for field, texts in listed.items()}


def _prompts_for(field: str) -> str:
    return f"prompts for {field}"


def _weighting_lines(corpus: Corpus) -> dict[str, str]:
    """How many prompts have weights, as name → text, where any has."""
    from noisesmith.pipeline.lengths import describe_weighting

    text = describe_weighting(corpus)
    return {} if text is None else {"prompt syntax": text}


def _question_lines(settings: RunConfig, corpus: Corpus) -> dict[str, str]:
    """How many questions the scorers are asked about a prompt, as name → text, where they are asked any."""
    from noisesmith.pipeline.lengths import describe_questions

    text = describe_questions(settings, corpus)
    return {} if text is None else {"questions": text}


def _work_lines(settings: RunConfig, models: FoundModels, size: int) -> dict[str, str]:
    """How much work the search is and who does it, as name → text."""
    optimizer = settings.optimizer
    search = f"{optimizer.method}, {optimizer.rounds} rounds"
    short = optimizer.short_rounds(settings.generators.steps)
    if short:
        search += f" of {short.steps} steps"
    images, evaluations = settings.most_per_row()
    denoiser = "U-Net" if models.generator.family.denoiser == "unet" else "transformer"
    return {
        "optimizer": search,
        "actors": _actors(settings),
        "at most": f"{size * images:,} images, {size * evaluations:,} evaluations of the {denoiser}",
    }


def _actors(settings: RunConfig) -> str:
    """How many actors of each kind there are, and the GPUs that they take together."""
    sides: dict[str, Actors] = {"generators": settings.generators}
    for placed, *_ in settings.groups:
        sides[_title("scorers", placed.name, settings.groups)] = placed
    texts = [f"{side.count} {name} ({side.num_gpus:g} GPU, {side.num_cpus:g} CPU each)" for name, side in sides.items()]
    writers = settings.writers
    if writers.cores:
        texts.append(f"{writers.count} writers ({writers.cores:g} CPU each)")
    if len(sides) > 2:
        texts.append(f"{sum(side.count * side.num_gpus for side in sides.values()):g} GPUs in all")
    return ", ".join(texts)


def _cost_lines(settings: RunConfig, models: FoundModels) -> dict[str, str]:
    """The memory and the computation of one worker of each kind, as name → text."""
    from noisesmith.pipeline.cost.estimate import balance, estimate

    generating, scoring = estimate(settings, models)
    lines = {"a generator": str(generating)}
    for name, side in scoring.items():
        lines[_title("a scorer", name, scoring)] = str(side)
    return lines | {"balance": balance(generating, scoring)}
