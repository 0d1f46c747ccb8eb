"""``noisesmith merge``: one run of the partitions of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noisesmith.pipeline.cli.common import console, interruptible, run_location
from noisesmith.pipeline.cli.make import hint
from noisesmith.pipeline.storage.home import shell_word

Partitions = Annotated[
    list[Path],
    typer.Argument(metavar="PARTITION...", help="Run directories of partitions, or their URLs.", parser=run_location),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new run directory.", parser=run_location)]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Merge what is there; noisesmith retry makes the missing rows later.")
]


def merge(partitions: Partitions, out: Out, allow_missing: AllowMissing = False) -> None:
    """Join the runs that noisesmith run --partition has made into one run.

    Shard files are linked or copied, and none is written again. The partitions stay as they are.
    The same command goes on with a merge that has stopped.
    """
    from noisesmith.pipeline.merge import merge as join

    with interruptible("run the same command to go on"):
        merged = join(partitions, out, console.print, allow_missing=allow_missing)
    failed = f", {merged.failed:,} failed" if merged.failed else ""
    console.print(f"merged {len(partitions)} partitions: {merged.rows:,} rows{failed}")
    if merged.missing:
        console.print(
            f"{merged.missing} of {merged.shards} shards are missing; to make them: noisesmith retry {shell_word(out)}"
        )
    if merged.rows:
        hint(out)
