"""Every error class that Ray can raise for a call, and what it means for the rows of that call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ray.exceptions import RayError, RayTaskError

from noisesmith.actors.retry import Fault, fault_of
from noisesmith.pipeline.errors import MemoryExhausted

# By name: a class that a later Ray adds must be put here, and one that it drops must go.
EXPECTED = {
    Fault.ROW: """
        RayError RayTaskError UserCodeException UnserializableException CrossLanguageError TaskCancelledError
        PendingCallsLimitExceeded ObjectRefStreamEndOfStreamError OufOfBandObjectRefSerializationException
        ActorAlreadyExistsError ActorHandleNotFoundError
    """,
    Fault.MEMORY: "ObjectStoreFullError",
    Fault.ACTOR: """
        RayActorError ActorDiedError ActorUnavailableError NodeDiedError WorkerCrashedError RuntimeEnvSetupError
        ActorUnschedulableError TaskUnschedulableError ActorPlacementGroupRemoved TaskPlacementGroupRemoved
        AsyncioActorExit RaySystemError StreamingGeneratorReplayInconsistentError RayChannelError
        RayChannelTimeoutError RayCgraphCapacityExceeded RayDirectTransportError
    """,
    Fault.KILLED: "OutOfMemoryError",
    Fault.OBJECT: """
        ObjectLostError ObjectFetchTimedOutError ReferenceCountingAssertionError ObjectFreedError OwnerDiedError
        ObjectReconstructionFailedError PlasmaObjectNotAvailable GetTimeoutError
    """,
    Fault.CLUSTER: "LocalRayletDiedError OutOfDiskError AuthenticationError RpcError",
}
FAULTS = {name: fault for fault, names in EXPECTED.items() for name in names.split()}


def subclasses(of: type[RayError]) -> Iterator[type[RayError]]:
    for subclass in of.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


RAY_ERRORS = [RayError, *(found for found in subclasses(RayError) if found.__module__ == "ray.exceptions")]


def make(error_class: Any) -> RayError:
    """An instance without the arguments that only Ray has."""
    error: RayError = error_class.__new__(error_class)
    return error


def raised(cause: BaseException) -> RayTaskError:
    return RayTaskError("generate", "", cause)


def test_every_class_of_ray_has_been_thought_about() -> None:
    assert {found.__name__ for found in RAY_ERRORS} == set(FAULTS)
    assert len(RAY_ERRORS) > 40


@pytest.mark.parametrize("error_class", RAY_ERRORS, ids=lambda found: found.__name__)
def test_an_error_of_the_call_itself(error_class: type[RayError]) -> None:
    error = raised(ValueError("no")) if error_class is RayTaskError else make(error_class)
    assert fault_of(error) is FAULTS[error_class.__name__]


@pytest.mark.parametrize("error_class", [found for found in RAY_ERRORS if found is not RayTaskError], ids=str)
def test_an_error_of_what_the_call_needed(error_class: type[RayError]) -> None:
    """The death of another worker took an object with it; the worker that was called is alive."""
    fault = FAULTS[error_class.__name__]
    expected = Fault.OBJECT if fault.is_death else fault
    assert fault_of(raised(make(error_class))) is expected


def test_what_a_worker_raises() -> None:
    assert fault_of(raised(MemoryExhausted("full"))) is Fault.MEMORY
    assert fault_of(raised(ValueError("no"))) is Fault.ROW
    assert fault_of(raised(MemoryError())) is Fault.ROW, "one that the memory guard did not see"
