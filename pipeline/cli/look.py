"""``replay``, ``verify`` and ``status``: what looks at a run."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from noisesmith.pipeline.cli.common import RunDir, config_of_run, console, interruptible
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError


def replay(
    run_dir: RunDir,
    row_id: Annotated[str, typer.Argument(metavar="ID", help="a row's id")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="where to write the image")] = None,
) -> None:
    """Rebuild one row's noise and image from its recipe, and compare them with what was written."""
    from noisesmith.pipeline.models.runtime import quiet_libraries
    from noisesmith.pipeline.replay import replay_row

    quiet_libraries()
    result = replay_row(run_dir, config_of_run(run_dir), row_id)
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


def verify(
    run_dir: RunDir,
    replay: Annotated[int, typer.Option("--replay", metavar="N", min=0, help="rows whose noise is rebuilt")] = 2,
    repair: Annotated[bool, typer.Option("--repair", help="keep what is sound, and open damaged shards again")] = False,
) -> None:
    """Check a run's files against its manifest: hashes, row counts, unique ids, readable images, recipes.

    Nothing is written, and the exit code is 1 where something is wrong, unless --repair is given.
    """
    from noisesmith.pipeline.sinks import sample_rows, verify_run

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
    console.print(f"{run_dir}: all is well; noise rebuilt for {len(sample)} rows")


def _repair(settings: RunConfig, sample: Collection[int]) -> None:
    from noisesmith.pipeline.prompts import open_corpus
    from noisesmith.pipeline.sinks import repair_run

    corpus, run_dir = open_corpus(settings), settings.run_dir
    with interruptible():
        found, state = repair_run(settings, corpus, console.print, sample)
    for problem in found.problems:
        console.print(problem)
    console.print(f"{_problems(len(found.problems))} repaired: what is sound was kept")
    if missing := corpus.size - len(state.done):
        console.print(f"run the same config again to make {missing} rows anew, or: noisesmith retry {run_dir}")


def _problems(count: int) -> str:
    return "1 problem" if count == 1 else f"{count} problems"


def status(
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """Say how a run fares, while it works or after it ended or died; write nothing."""
    from noisesmith.pipeline.telemetry.console import clock
    from noisesmith.pipeline.telemetry.status import read_status

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
