"""``noisesmith replay``, ``verify`` and ``status``: look at a run."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noisesmith.pipeline.cli.common import RunDir, console, interruptible, local_path
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.storage.home import shell_word

if TYPE_CHECKING:
    from noisesmith.pipeline.replay import Replay
    from noisesmith.pipeline.telemetry.status import Status


def replay(
    run_dir: RunDir,
    row_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a row.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write the image.", parser=local_path)
    ] = None,
) -> None:
    """Rebuild the noise and the image of one row from its recipe, and compare them with what was written."""
    from noisesmith.pipeline.models.runtime import quiet_libraries
    from noisesmith.pipeline.replay import replay_row
    from noisesmith.pipeline.sinks import config_of_row

    quiet_libraries()
    result = replay_row(run_dir, config_of_row(run_dir, row_id), row_id)
    path = out or Path(f"{row_id}.png")
    try:
        path.write_bytes(result.png)
    except OSError as error:
        raise UserError(f"--out: {path} cannot be written ({error.strerror}); give another file") from None
    _print_replay(result)
    console.print(f"written {path}")
    if not result.noise_identical:
        raise typer.Exit(1)


def _print_replay(result: Replay) -> None:
    console.print(f"prompt  {result.prompt}")
    noise = "bit-identical" if result.noise_identical else "DIFFERS"
    console.print(f"noise   {noise} ({len(result.recipe.gammas)} rounds)")
    if result.image_identical:
        console.print("image   identical")
    else:
        console.print(
            f"image   differs by at most {result.max_difference} of 255 grey levels, {result.mean_difference:.4f} on "
            f"average (made in a batch of {result.recipe.batch_size}; only batch size 1 replays bit for bit)"
        )
    if result.revision_then != result.revision_now:
        console.print(f"model   was {result.revision_then}, is now {result.revision_now}")


def verify(
    run_dir: RunDir,
    replay: Annotated[
        int, typer.Option("--replay", metavar="N", min=0, help="Number of rows whose noise is rebuilt.")
    ] = 2,
    repair: Annotated[bool, typer.Option("--repair", help="Keep sound rows, and open damaged shards again.")] = False,
) -> None:
    """Check a run's files against its manifest: hashes, row counts, unique ids, readable images, recipes.

    Without --repair nothing is written, and the exit code is 1 if something is wrong.
    """
    from noisesmith.pipeline.sinks import config_of_run, sample_rows, verify_run

    settings = config_of_run(run_dir)
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
    console.print(f"{run_dir}: no problems; noise rebuilt for {len(sample)} rows")


def _repair(settings: RunConfig, sample: Collection[int]) -> None:
    from noisesmith.pipeline.extend import open_parts
    from noisesmith.pipeline.report import conclude
    from noisesmith.pipeline.sinks import hold_run, repair_run
    from noisesmith.pipeline.telemetry.status import read_status

    (_, corpus), *later = open_parts(settings.run_dir)
    with interruptible():
        found, _ = repair_run(settings, corpus, console.print, sample, later)
        for problem in found.problems:
            console.print(problem)
        console.print(f"{_problems(len(found.problems))} repaired: sound rows were kept")
        if found.side:
            tables = ", ".join(sorted({table for table, _ in found.side}))
            console.print(
                f"files of side tables were dropped ({tables}); make them again with the command that made them"
            )
        with hold_run(settings, corpus, console.print) as state:
            conclude(settings, state)
    now = read_status(settings.run_dir)
    missing = now.rows - now.rows_done
    if missing:
        console.print(f"to make {missing} missing rows again: noisesmith retry {shell_word(settings.run_dir)}")


def _problems(count: int) -> str:
    return "1 problem" if count == 1 else f"{count} problems"


def status(
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the state of a run, while it works or after it ended. Writes nothing."""
    from noisesmith.pipeline.telemetry.console import clock
    from noisesmith.pipeline.telemetry.status import read_status

    found = read_status(run_dir)
    if as_json:
        console.print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        return
    lines = _run_lines(found)
    if found.updated_seconds is not None:
        if found.queues:  # else its models have never been loaded, and all figures are zero
            lines |= _session_lines(found)
        lines["updated"] = f"{clock(found.updated_seconds)} ago"
    for name, value in lines.items():
        console.print(f"{name:<10}{value}")


def _run_lines(found: Status) -> dict[str, str]:
    """What the files of a run show, as name → text."""
    state = found.state
    if found.owner:
        state += f" ({found.owner})"
    if found.message:
        state += f": {found.message}"
    errors = ", ".join(f"{error} {count:,}" for error, count in found.failed.items())
    lines = {"state": state}
    if found.partition is not None:
        lines["partition"] = f"{found.partition}, its own rows and shards"
    return lines | {
        "rows": f"{found.rows_done:,} of {found.rows:,} done",
        "shards": f"{found.shards_committed:,} of {found.shards:,} committed",
        "failed": errors or "none",
    }


def _session_lines(found: Status) -> dict[str, str]:
    """The figures that the last session wrote about itself, as name → text."""
    from noisesmith.pipeline.telemetry.console import clock

    lines = {}
    if found.images_planned:
        lines["images"] = f"{found.images_done:,} of at most {found.images_planned:,} done in this session"
    if found.scores is not None:
        first, kept = found.scores
        lines["score"] = f"{first:.3f} → {kept:.3f}"
    rates = [f"{found.rows_per_minute or 0:g} rows/min"]
    if found.images_per_minute is not None:
        rates.append(f"{found.images_per_minute:g} images/min")
    is_running = found.state == "running"
    if is_running and found.eta_seconds is not None:
        rates.append(f"ETA {clock(found.eta_seconds)}")
    lines["rate"] = ", ".join(rates)
    if is_running:
        lines["in flight"] = f"{found.in_flight} rows"
        lines["queues"] = ", ".join(f"{stage} {length}" for stage, length in (found.queues or {}).items())
    lines["actors"] = ", ".join(f"{count} {side}" for side, count in (found.actors or {}).items())
    lines["busy"] = ", ".join(f"{side} {share:.0%}" for side, share in (found.busy or {}).items())
    return lines
