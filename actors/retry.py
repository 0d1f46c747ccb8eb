"""What went wrong with a call, and what that means for the rows it carried. Needs no running Ray."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto

from ray.exceptions import (
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    AsyncioActorExit,
    AuthenticationError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    PlasmaObjectNotAvailable,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    RpcError,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from noisesmith.pipeline.errors import MemoryExhausted, RunError, reason

MAX_DEATHS = 3  # workers in a row that die with one row alone before that row fails for good
MAX_KILLS = 10  # the same, of workers that were killed because their host was short of memory
MAX_LOSSES = 10  # restarts of one row's search after lost objects
MAX_BACKOFF = 60.0  # seconds
MIN_ROWS = 20  # before the share of failed rows means anything

# The worker is gone, or never came to be. Ray reports a process that cannot be started as a RaySystemError.
_DEATHS = (
    RayActorError,
    NodeDiedError,
    WorkerCrashedError,
    RaySystemError,
    RuntimeEnvSetupError,
    ActorUnschedulableError,
    TaskUnschedulableError,
    ActorPlacementGroupRemoved,
    TaskPlacementGroupRemoved,
    AsyncioActorExit,
)
_LOSSES = (ObjectLostError, PlasmaObjectNotAvailable, GetTimeoutError)
_TOO_LARGE = (MemoryExhausted, ObjectStoreFullError)
# Nothing that this run could send would succeed.
_CLUSTER = (LocalRayletDiedError, OutOfDiskError, AuthenticationError, RpcError)
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


class Fault(Enum):
    """The cause of a failed call."""

    ROW = auto()  # the call raised: one of its rows may always do so
    MEMORY = auto()  # the batch was too large for the device, or its arrays for Ray's object store
    ACTOR = auto()  # the worker died, alone or with its node; one of the rows may be why
    KILLED = auto()  # Ray's memory monitor killed the worker, because its host was short of memory
    OBJECT = auto()  # what the call needed was lost with another node
    CLUSTER = auto()  # Ray itself cannot go on

    @property
    def is_death(self) -> bool:
        """Whether the worker is gone."""
        return self in (Fault.ACTOR, Fault.KILLED)


def cause_of(error: RayError) -> BaseException:
    """What the worker's own code raised, else Ray's error."""
    cause: BaseException = error
    if isinstance(error, RayTaskError) and error.cause:
        cause = error.cause
    return cause


def traceback_of(error: RayError) -> str:
    """The traceback in the worker, without colour codes; all that Ray reports where the worker has left none."""
    return _COLOURS.sub("", str(error)).strip()


def fault_of(error: RayError) -> Fault:
    """Classify the error of a failed call: the one place that knows Ray's exception classes."""
    cause = cause_of(error)
    if isinstance(cause, _CLUSTER):
        return Fault.CLUSTER
    if isinstance(cause, _TOO_LARGE):
        return Fault.MEMORY
    if isinstance(cause, (*_DEATHS, OutOfMemoryError)) and cause is not error:
        return Fault.OBJECT  # the death of another worker, whose answer the call needed
    if isinstance(cause, OutOfMemoryError):
        return Fault.KILLED
    if isinstance(cause, _DEATHS):
        return Fault.ACTOR
    return Fault.OBJECT if isinstance(cause, _LOSSES) else Fault.ROW


def cluster_failure(error: RayError) -> RunError:
    """What to raise where Ray itself cannot go on."""
    return RunError(f"Ray cannot go on ({type(cause_of(error)).__name__}: {reason(cause_of(error))})")


def backoff(first: float, failures: int) -> float:
    """Seconds to wait after a row's ``failures``-th failure, doubling up to :data:`MAX_BACKOFF` (or ``first``)."""
    doubled = first * 2.0 ** min(failures - 1, 32)
    return min(doubled, max(MAX_BACKOFF, first))


@dataclass
class RowFaults:
    """How often a row's calls went wrong.

    ``failures`` counts calls that raised with this row alone, ``deaths`` and ``kills`` the workers in a row that died
    or were killed for memory with it alone, ``losses`` how often its objects were lost.
    """

    failures: int = 0
    deaths: int = 0
    kills: int = 0
    losses: int = 0

    def count(self, fault: Fault) -> None:
        """Count a call that failed with this row alone, or one whose objects are lost."""
        if fault is Fault.OBJECT:
            self.losses += 1
        elif fault is Fault.ACTOR:
            self.deaths += 1
        elif fault is Fault.KILLED:
            self.kills += 1
        else:
            self.failures += 1

    def succeeded(self) -> None:
        """A call that carried the row has succeeded."""
        self.deaths = 0
        self.kills = 0

    def allow_another(self, retries: int) -> bool:
        """Whether the row may be tried again."""
        if self.failures > retries:
            return False
        return self.deaths < MAX_DEATHS and self.kills < MAX_KILLS and self.losses < MAX_LOSSES

    def delay(self, fault: Fault, first: float) -> float:
        """Seconds to wait before the next attempt: only a call that raised makes its row wait."""
        raised = fault in (Fault.ROW, Fault.MEMORY)
        return backoff(first, self.failures) if raised else 0.0


class FailureLimit:
    """Stops a run in which too many rows fail: something is wrong with more than the rows."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._errors: Counter[str] = Counter()
        self._example: dict[str, str] = {}

    def count(self, error: str, message: str) -> None:
        """Count one row that failed for good, by the class of its last error."""
        self._errors[error] += 1
        self._example[error] = message

    def check(self, written: int) -> None:
        """Compare the failed rows with those ``written``, by earlier sessions too.

        So rows that fail whenever they are tried again are few of a large run, although this session tries only them.

        Raises:
            RunError: their share is above the limit; the message names the most frequent error.
        """
        failed = self._errors.total()
        rows = failed + written
        if rows < MIN_ROWS or failed <= self._share * rows:
            return
        error, times = self._errors.most_common(1)[0]
        raise RunError(
            f"{failed} of {rows} rows failed, more than faults.failed_share={self._share:g} of them; "
            f"the commonest error is {error} ({times} rows): {reason(Exception(self._example[error]))}"
        )
