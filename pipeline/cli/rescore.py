"""``noisesmith rescore``: judge the images of a run that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from noisesmith.pipeline.cli.common import Overrides, RunDir, console, interruptible
from noisesmith.pipeline.config import JudgeConfig
from noisesmith.pipeline.config.errors import sentence
from noisesmith.pipeline.config.load import parse_yaml
from noisesmith.pipeline.errors import UserError

Judges = Annotated[
    list[str],
    typer.Option(
        "--judge",
        metavar="NAME=MODEL",
        help="A judge to add, or its section of a config: '{name: big, model: https://…/v1, server_model: …}'. "
        "Give the option again for more.",
    ),
]


def rescore(
    run_dir: RunDir,
    judge: Judges,
    overrides: Overrides = None,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=4096, help="Number of workers.")] = 1,
    num_gpus: Annotated[float, typer.Option("--num-gpus", metavar="G", min=0, help="GPUs per worker.")] = 0,
    num_cpus: Annotated[float, typer.Option("--num-cpus", metavar="C", min=0.01, help="CPU cores per worker.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="B", min=1, max=4096, help="Images per call.")] = 8,
    replace: Annotated[
        bool, typer.Option("--replace", help="Judge again what another revision or model has judged.")
    ] = False,
) -> None:
    """Let more judges look at the images of a run, without making any, and write a side table for each.

    The same command goes on where it was stopped. Overrides may change where it runs and how a judge is asked, such as
    ray.address=auto or scorers.dtype=bfloat16.
    """
    from noisesmith.actors.rescore import rescore as judge_run
    from noisesmith.pipeline.config.section import Actors
    from noisesmith.pipeline.sinks import config_of_run

    settings = config_of_run(run_dir, overrides)
    judges = tuple(_judge(text) for text in judge)
    try:
        placement = Actors(count=count, num_gpus=num_gpus, num_cpus=num_cpus, batch_size=batch_size)
    except ValidationError as error:
        raise UserError(f"rescore: {sentence(error, Actors, ())}") from None
    with interruptible():
        shards = judge_run(settings, judges, placement, console.print, replace=replace)
    if not shards:
        console.print("every committed shard has been judged already")
    for added in judges:
        console.print(_summary(run_dir, added.name))


def _judge(text: str) -> JudgeConfig:
    """Read NAME=MODEL, or a judge as a config has it: a YAML mapping in braces."""
    where = f"--judge {text}"
    if text.lstrip().startswith("{"):
        section = parse_yaml(text, where)
    else:
        name, equals, model = text.partition("=")
        if not equals:
            raise UserError(
                f"{where}: write it as NAME=MODEL, such as clip=openai/clip-vit-large-patch14, or as a section of a "
                "config, such as '{name: clip, model: openai/clip-vit-large-patch14, revision: main}'"
            )
        section = {"name": name, "model": model}
    try:
        return JudgeConfig.model_validate(section)
    except ValidationError as error:
        raise UserError(f"{where}: {sentence(error, JudgeConfig, ())}") from None


def _summary(run_dir: Path, name: str) -> str:
    """One line: the judge's mean scores of the first and the kept images, over the rows where it knows both."""
    from noisesmith.pipeline.sinks import read_rows

    pairs = []
    known = 0
    rows = 0
    for row in read_rows(run_dir, [f"judge_{name}_initial", f"judge_{name}"]):
        first, kept = row[f"judge_{name}_initial"], row[f"judge_{name}"]
        rows += 1
        known += kept is not None
        if first is not None and kept is not None:
            pairs.append((first, kept))
    line = f"judge {name}: {known} of {rows} kept images judged"
    if pairs:
        first_mean = sum(first for first, _ in pairs) / len(pairs)
        kept_mean = sum(kept for _, kept in pairs) / len(pairs)
        line += f", mean {first_mean:.3f} first → {kept_mean:.3f} kept"
    return line
