"""Reads the state of a run from its directory, while it works or after it ended. Writes nothing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noisesmith.pipeline.sinks.done import read_all_done
from noisesmith.pipeline.sinks.location import reading
from noisesmith.pipeline.sinks.manifest import read_manifest
from noisesmith.pipeline.storage.lock import STALE, Owner, read_owner
from noisesmith.pipeline.telemetry.failures import read_dead_letters


@dataclass(frozen=True)
class Status:
    """The state of a run and its figures.

    Attributes:
        state: running, died, stopped, failed or finished.
        owner: the process that holds the lock of the directory, ``None`` where there is none.
        message: what a running session waits for, or why the last one failed.
        partition: such as 2/8, where other runs make the other shards; all figures are of its own rows and shards.
        failed: dead letters by class of error.
        images_done, images_planned, scores, rates, eta_seconds, in_flight, queues, busy, actors: figures that the
            session last wrote, ``updated_seconds`` ago; ``None`` where it has written none. ``scores`` are the means of
            the rows' first and kept scores, ``busy`` the workers' busy share by side in [0, 1], ``actors`` their number
            by side.
    """

    run: str
    state: str
    owner: str | None
    message: str
    rows: int
    rows_done: int
    shards: int
    shards_committed: int
    partition: str | None
    failed: dict[str, int]
    images_done: int | None
    images_planned: int | None
    scores: list[float] | None
    rows_per_minute: float | None
    images_per_minute: float | None
    eta_seconds: int | None
    in_flight: int | None
    queues: dict[str, int] | None
    busy: dict[str, float] | None
    actors: dict[str, int] | None
    updated_seconds: int | None

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        return asdict(self)


def read_status(run_dir: Path) -> Status:
    """Read the state of a run.

    Raises:
        UserError: the directory is not a run or cannot be read, or its manifest or dead letters are damaged.
    """
    with reading(run_dir):
        return _read_status(run_dir)


def _read_status(run_dir: Path) -> Status:
    # The owner is read first: a run that ends in the meantime then shows as running, not as dead.
    owner = read_owner(run_dir)
    manifest = read_manifest(run_dir)
    done = read_all_done(run_dir, manifest)
    errors = Counter(letter["error"] for letter in read_dead_letters(run_dir, done))
    session = _session_figures(run_dir, owner)
    is_complete = len(manifest.entries) == manifest.shards
    return Status(
        run=str(run_dir),
        state=_state(owner, session.get("state"), is_complete),
        owner=str(owner) if owner else None,
        message=session.get("message", ""),
        rows=manifest.rows,
        rows_done=sum(map(len, done)),
        shards=manifest.shards,
        shards_committed=len(manifest.entries),
        partition=None if manifest.header.partition is None else str(manifest.header.partition),
        failed=dict(errors.most_common()),
        images_done=session.get("images_done"),
        images_planned=session.get("images_planned"),
        scores=session.get("scores"),
        rows_per_minute=session.get("rows_per_minute"),
        images_per_minute=session.get("images_per_minute"),
        eta_seconds=session.get("eta_seconds"),
        in_flight=session.get("in_flight"),
        queues=session.get("queues"),
        busy=_busy(session),
        actors=_actors(session),
        updated_seconds=_age(session["updated"]) if "updated" in session else None,
    )


def _session_figures(run_dir: Path, owner: Owner | None) -> dict[str, Any]:
    """What the session of ``owner`` (the last session, where there is none) wrote to ``stats.json``; may be empty."""
    try:
        figures = json.loads((run_dir / "stats.json").read_bytes())["operations"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if not isinstance(figures, dict):
        return {}
    if owner is not None and figures.get("started", "") < owner.started:
        return {}  # of an earlier session: this one still starts Ray
    return figures


def _busy(session: dict[str, Any]) -> dict[str, float] | None:
    busy = {}
    for side in ("generators", "scorers"):
        if f"busy_{side}" in session:
            busy[side] = session[f"busy_{side}"]
    return busy or None


def _actors(session: dict[str, Any]) -> dict[str, int] | None:
    return {side: session[side] for side in ("generators", "scorers", "writers") if side in session} or None


def _state(owner: Owner | None, written: str | None, is_complete: bool) -> str:
    """The state of a run with this lock, whose last session wrote the state ``written``."""
    if owner is not None:
        if owner.alive is None:  # it runs on another machine: only its heartbeat can be seen
            return "running" if _age(owner.beaten) <= STALE else "died"
        return "running" if owner.alive else "died"
    if is_complete:
        return "finished"
    if written == "running":
        return "died"  # it did not write how it ended
    if written is None or written == "finished":
        return "stopped"
    return written


def _age(date: str) -> int:
    """Seconds since an ISO date."""
    return max(0, round((datetime.now(UTC) - datetime.fromisoformat(date)).total_seconds()))
