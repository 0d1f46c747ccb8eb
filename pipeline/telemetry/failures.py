"""Reads the dead letters of a run: which rows failed for good, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import DoneRows, read_all_done
from noisesmith.pipeline.sinks.manifest import read_manifest


def read_dead_letters(run_dir: Path, parts: Iterable[DoneRows]) -> Iterator[dict[str, Any]]:
    """Yield all dead letters of a run, shard by shard.

    Args:
        parts: which rows of each part are done.

    Raises:
        UserError: a file of dead letters is damaged.
    """
    shards: set[int] = set()
    for done in parts:
        shards |= set(done.dead)
        shards |= {shard for shard, entry in done.committed.items() if entry.failed}
    for shard in sorted(shards):
        yield from staging.read_letters(run_dir, shard).values()


def commonest_traceback(run_dir: Path) -> str | None:
    """The last traceback of the class of error that most rows failed with; ``None`` where no traceback is on file.

    Raises:
        UserError: the manifest or a file of dead letters is damaged.
    """
    rows: Counter[str] = Counter()
    tracebacks: dict[str, str] = {}
    for letter in read_dead_letters(run_dir, read_all_done(run_dir, read_manifest(run_dir))):
        for attempt in letter["attempts"][-1:]:
            if attempt.get("traceback"):
                rows[letter["error"]] += 1
                tracebacks[letter["error"]] = attempt["traceback"]
    if not rows:
        return None
    error, _ = rows.most_common(1)[0]
    return tracebacks[error]
