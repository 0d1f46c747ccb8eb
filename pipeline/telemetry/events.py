"""The events of a run. The driver emits them; the terminal, the log, ``stats.json`` and Ray's metrics show them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelsLoading:
    """The cluster is up and the workers load their models."""


@dataclass(frozen=True)
class RunStarted:
    """All models are loaded. The corpus has ``rows`` rows, of which earlier sessions have done ``done``."""

    rows: int
    done: int


@dataclass(frozen=True)
class RowWritten:
    """A row is durable. ``attempt`` counts from 1; ``seconds`` is the time since the row was admitted."""

    row: str
    attempt: int
    rounds: int
    score_initial: float
    score: float
    seconds: float


@dataclass(frozen=True)
class _FailedCall:
    """A call that carried the row has failed.

    Attributes:
        attempt: number of calls of this row that have failed, this one included.
        stage: generate, score, render or write.
        actor: the worker as HOST:PID.
        error: class name of the exception; ``message`` is the first line of its text.
        traceback: the full traceback in the worker. It goes to ``logs/run.jsonl``, never to the terminal.
    """

    row: str
    attempt: int
    stage: str
    actor: str
    error: str
    message: str
    traceback: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class RowRetried(_FailedCall):
    """A call has failed, and the row will be tried again."""


@dataclass(frozen=True)
class RowFailed(_FailedCall):
    """The row failed for good, and its dead letter is durable. ``seconds`` is the time since it was admitted."""

    seconds: float


@dataclass(frozen=True)
class ActorReplaced:
    """A worker at HOST:PID (``actor``) died and a new one starts in its place.

    ``side`` is generator, scorer or writer; ``deaths`` counts the deaths in a row without a finished batch.
    """

    side: str
    actor: str
    deaths: int
    message: str
    traceback: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class BatchHalved:
    """A batch did not fit into the memory of its device: batches of ``stage`` now have at most ``batch_size`` rows."""

    stage: str
    actor: str
    batch_size: int


@dataclass(frozen=True)
class WorkersMoved:
    """Workers of an idle side make room for workers of a busy one, as ``placement: auto`` asks.

    Attributes:
        before, after: the number of workers of each side, by the name of its pool.
        busy: the share of its time that each side has worked lately, in [0, 1].
    """

    before: dict[str, int]
    after: dict[str, int]
    busy: dict[str, float]

    def by_side(self) -> dict[str, int]:
        """The number of generators and that of scorers of all groups, from now on."""
        generators = self.after["generator"]
        return {"generators": generators, "scorers": sum(self.after.values()) - generators}

    def __str__(self) -> str:
        changes = []
        for name, count in self.after.items():
            changes.append(f"{name} {self.before[name]} → {count} ({self.busy[name]:.0%} busy)")
        return f"workers move: {', '.join(changes)}"


@dataclass(frozen=True)
class ShardCommitted:
    """A shard is in the manifest."""

    shard: int


@dataclass(frozen=True)
class RunEnded:
    """The session has ended.

    ``state`` is finished, stopped (rows are left) or failed; a failed one has a ``message`` and a ``traceback``.
    """

    state: str
    message: str = ""
    traceback: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Snapshot:
    """The state of the driver at one moment.

    Attributes:
        in_flight: rows admitted and not yet written.
        queues: rows that wait, by stage, and those that wait for a retry.
        busy_generators, busy_scorers: share of their time that the workers have worked, in [0, 1].
        images_done: images scored in this session, those of rows in flight included.
        images_planned: the most that ``images_done`` can still reach: rows that ended count the images they took,
            all other rows of this session the most they can take.
    """

    in_flight: int
    queues: dict[str, int]
    busy_generators: float
    busy_scorers: float
    images_done: int = 0
    images_planned: int = 0


Event = (
    ModelsLoading
    | RunStarted
    | RowWritten
    | RowRetried
    | RowFailed
    | ActorReplaced
    | BatchHalved
    | WorkersMoved
    | ShardCommitted
    | RunEnded
    | Snapshot
)
