"""What went wrong with an actor's call, and what that says of the rows it carried."""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto

from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from noisesmith.pipeline.errors import MemoryExhausted, RunError, reason

MAX_BACKOFF = 60.0  # seconds
LEAST_ROWS = 20  # before the share of failed rows tells anything


class Fault(Enum):
    """Whose fault a failed call was."""

    ROW = auto()  # the call raised: a row of it may always do so
    MEMORY = auto()  # its batch was too large for the device
    ACTOR = auto()  # its actor died, alone or with its node; a row may be why
    OBJECT = auto()  # what it needed was lost with another node


def cause_of(error: RayError) -> BaseException:
    """What the actor's own code raised, else Ray's error."""
    return error.cause if isinstance(error, RayTaskError) and error.cause else error


def fault_of(error: RayError) -> Fault:
    cause = cause_of(error)
    if isinstance(cause, RayActorError):
        return Fault.ACTOR if cause is error else Fault.OBJECT  # else of another actor, whose answer it needed
    if isinstance(cause, ObjectLostError):
        return Fault.OBJECT
    return Fault.MEMORY if isinstance(cause, MemoryExhausted) else Fault.ROW


def backoff(first: float, failures: int) -> float:
    """Seconds to wait after a row's ``failures``-th failure, doubling up to :data:`MAX_BACKOFF` (or ``first``)."""
    return min(first * 2.0 ** min(failures - 1, 32), max(MAX_BACKOFF, first))


class Ceiling:
    """Stops a run in which too many rows fail: something is wrong with more than the rows."""

    def __init__(self, share: float) -> None:
        self._share = share
        self.errors: Counter[str] = Counter()
        self._example: dict[str, str] = {}

    def failed(self, error: str, message: str) -> None:
        """Count one row given up for an error of this class."""
        self.errors[error] += 1
        self._example[error] = message

    def check(self, written: int) -> None:
        """Hold the failed rows against those ``written``.

        Raises:
            RunError: their share is above the ceiling; the message names the commonest error.
        """
        failed = self.errors.total()
        if failed + written >= LEAST_ROWS and failed > self._share * (failed + written):
            error, times = self.errors.most_common(1)[0]
            raise RunError(
                f"{failed} of {failed + written} rows failed, more than faults.failed_share={self._share:g} of them; "
                f"the commonest error is {error} ({times} rows): {reason(Exception(self._example[error]))}"
            )
