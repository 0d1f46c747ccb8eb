"""What happens in a run, as its driver tells it: to the terminal, the log, ``stats.json`` and Ray's metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunStarted:
    """The models are loaded: ``rows`` in the corpus, ``done`` of them by earlier sessions."""

    rows: int
    done: int


@dataclass(frozen=True)
class RowWritten:
    """A row is durable. ``attempt`` counts from 1, ``seconds`` from its admission."""

    row: str
    attempt: int
    rounds: int
    score_initial: float
    score: float
    seconds: float


@dataclass(frozen=True)
class _FailedCall:
    """A call that carried the row has failed: the ``error``'s class, the step (``where``)."""

    row: str
    attempt: int
    where: str
    actor: str
    error: str
    message: str


@dataclass(frozen=True)
class RowRetried(_FailedCall):
    """The row is tried again."""


@dataclass(frozen=True)
class RowFailed(_FailedCall):
    """The row is given up, and its dead letter durable. ``seconds`` are from its admission."""

    seconds: float


@dataclass(frozen=True)
class ActorReplaced:
    """An actor of a side (generator, scorer, writer) died, at HOST:PID, for the ``deaths``-th time in a row."""

    side: str
    actor: str
    deaths: int
    message: str


@dataclass(frozen=True)
class BatchHalved:
    """A batch did not fit the device's memory: from now on it has ``batch_size`` rows at most."""

    where: str
    actor: str
    batch_size: int


@dataclass(frozen=True)
class ShardCommitted:
    """A shard is in the manifest."""

    shard: int


@dataclass(frozen=True)
class RunEnded:
    """``state`` is finished, stopped (rows are left) or failed; ``message`` says why where it failed."""

    state: str
    message: str = ""


@dataclass(frozen=True)
class Snapshot:
    """The driver's state at a moment: rows in flight, queue lengths by step, each side's busy share in [0, 1]."""

    in_flight: int
    queues: dict[str, int]
    busy_generators: float
    busy_scorers: float


Event = (
    RunStarted
    | RowWritten
    | RowRetried
    | RowFailed
    | ActorReplaced
    | BatchHalved
    | ShardCommitted
    | RunEnded
    | Snapshot
)
