"""``noisesmith accept``: which kept images of a run count as accepted."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from noisesmith.pipeline.cli.common import RunDir, console, interruptible
from noisesmith.pipeline.config import AcceptConfig, dump_config
from noisesmith.pipeline.config.errors import sentence
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.home import shell_word

Score = Annotated[float | None, typer.Option("--score", metavar="S", help="Least score of the scoring models.")]
Judges = Annotated[
    list[str] | None,
    typer.Option("--judge", metavar="NAME=S", help="Least score of a judge; give the option again for more."),
]
Atoms = Annotated[
    float | None, typer.Option("--atoms", metavar="S", help="Least score of the worst question about a prompt's parts.")
]


def accept(run_dir: RunDir, score: Score = None, judge: Judges = None, atoms: Atoms = None) -> None:
    """Evaluate an acceptance rule on the kept images of a run, and write the side table "accepted".

    Without options the rule in force is evaluated again: the last one, else that of the run's config.
    """
    from noisesmith.pipeline.acceptance import accept as evaluate
    from noisesmith.pipeline.acceptance import accept_again, acceptance_lines, read_acceptance
    from noisesmith.pipeline.report import renew_report
    from noisesmith.pipeline.sinks import config_of_run, hold_side
    from noisesmith.pipeline.sinks.location import writing
    from noisesmith.pipeline.sinks.manifest import read_manifest
    from noisesmith.pipeline.storage.files import write_atomic

    settings = config_of_run(run_dir)
    rule = _rule(score, judge or [], atoms)
    with interruptible(), hold_side(run_dir, console.print) as check_lock:
        if not read_manifest(run_dir).filled:
            raise UserError(f"{run_dir}: has no committed row yet; let its run write some first, or set accept there")
        if rule is None:
            accept_again(run_dir, settings, check_lock)
        else:
            evaluate(run_dir, rule, check_lock)
            # What reads the run's config later, such as retry, must not return to the earlier rule.
            settings = settings.model_copy(update={"accept": rule})
            check_lock()
            with writing(run_dir):
                write_atomic(run_dir / "config.yaml", dump_config(settings).encode())
        found = read_acceptance(run_dir)
        if found is None:
            raise UserError(
                f"{run_dir}: has no acceptance rule yet; give one, such as noisesmith accept {shell_word(run_dir)} "
                "--score 0.9"
            )
        renew_report(run_dir, settings)
    for line in acceptance_lines(found):
        console.print(line)


def _rule(score: float | None, judges: list[str], atoms: float | None) -> AcceptConfig | None:
    """Return the rule of the command's options; ``None`` where it has none."""
    thresholds: dict[str, object] = {}
    for text in judges:
        name, equals, value = text.partition("=")
        if not equals or name in thresholds:
            raise UserError(f"--judge {text}: write each judge once, as NAME=S, such as detector=0.5")
        thresholds[name] = value
    if score is None and atoms is None and not thresholds:
        return None
    try:
        return AcceptConfig.model_validate({"score": score, "judges": thresholds, "atoms": atoms})
    except ValidationError as error:
        raise UserError(f"accept: {sentence(error, AcceptConfig, ())}") from None
