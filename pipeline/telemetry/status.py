"""How a run fares, alive or dead, from what it has written. Reads only."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noisesmith.pipeline.sinks import staging
from noisesmith.pipeline.sinks.done import read_done
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.storage.lock import STALE, Owner, read_owner


@dataclass(frozen=True)
class Status:
    """``state`` is running, died, stopped, failed or finished; ``failed`` counts dead letters by class of error.

    ``scores``, the means of the rows' first and kept scores, ``rows_per_minute``, ``eta_seconds``, ``in_flight``,
    ``queues`` and ``busy`` are what the session last wrote of itself, ``updated_seconds`` ago; ``None`` where none has.
    """

    run: str
    state: str
    owner: str | None
    message: str
    rows: int
    rows_done: int
    shards: int
    shards_committed: int
    failed: dict[str, int]
    scores: list[float] | None
    rows_per_minute: float | None
    eta_seconds: int | None
    in_flight: int | None
    queues: dict[str, int] | None
    busy: dict[str, float] | None
    updated_seconds: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def read_status(run_dir: Path) -> Status:
    """
    Raises:
        UserError: the directory is no run, or its manifest or dead letters are damaged.
    """
    owner = read_owner(run_dir)  # before the rest: a run that ends meanwhile is seen as running, not as dead
    manifest = read_manifest(run_dir)
    done = read_done(run_dir, manifest)
    shards = sorted({*done.dead, *(shard for shard, entry in done.committed.items() if entry.failed)})
    letters = [letter for shard in shards for letter in staging.read_letters(run_dir, shard).values()]
    session = _session(run_dir)
    busy = {side: session[f"busy_{side}"] for side in ("generators", "scorers") if f"busy_{side}" in session}
    whole = len(done.committed) == manifest.header.shards
    return Status(
        run=str(run_dir),
        state=_state(owner, session.get("state"), whole),
        owner=str(owner) if owner else None,
        message=session.get("message", ""),
        rows=manifest.header.rows,
        rows_done=len(done),
        shards=manifest.header.shards,
        shards_committed=len(done.committed),
        failed=dict(Counter(letter["error"] for letter in letters).most_common()),
        scores=session.get("scores"),
        rows_per_minute=session.get("rows_per_minute"),
        eta_seconds=session.get("eta_seconds"),
        in_flight=session.get("in_flight"),
        queues=session.get("queues"),
        busy=busy or None,
        updated_seconds=_age(session["updated"]) if "updated" in session else None,
    )


def _session(run_dir: Path) -> dict[str, Any]:
    """What the last session wrote of itself; nothing where it wrote nothing."""
    try:
        operations = json.loads((run_dir / "stats.json").read_bytes())["operations"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return operations if isinstance(operations, dict) else {}


def _state(owner: Owner | None, told: str | None, whole: bool) -> str:
    if owner is not None:
        alive = owner.alive
        return "running" if alive or (alive is None and _age(owner.beaten) <= STALE) else "died"
    if whole:
        return "finished"
    return "died" if told == "running" else "stopped" if told in (None, "finished") else told


def _age(date: str) -> int:
    return max(0, round((datetime.now(UTC) - datetime.fromisoformat(date)).total_seconds()))
