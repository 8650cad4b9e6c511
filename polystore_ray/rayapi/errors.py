"""Translate errors of Ray to errors of polystore, in one place."""

from __future__ import annotations

from ray import exceptions as ray_exceptions

from polystore.exceptions import (
    StorageError,
    StorageFullError,
    StorageResolutionError,
    VFSTypeError,
)
from polystore_ray.errors import (
    CallTimeoutError,
    DataLostError,
    HostLostError,
    StoreUnavailableError,
)

__all__ = ["DIED", "KNOWN", "first_line", "is_known_dead", "of_user_code", "translated"]

DIED = (ray_exceptions.RayActorError, ray_exceptions.OutOfMemoryError)
"""What Ray raises for an actor whose process has ended, the second if the memory monitor did it."""

# Every error class of Ray, so that a test notices when Ray grows one.
KNOWN: dict[type[BaseException], type[StorageError]] = {
    getattr(ray_exceptions, name): ours
    for ours, names in {
        CallTimeoutError: ("GetTimeoutError",),
        HostLostError: (
            "ActorDiedError",
            "ActorUnavailableError",
            "AsyncioActorExit",
            "OutOfMemoryError",  # of the memory monitor, which kills the process
            "RayActorError",
            "WorkerCrashedError",
        ),
        DataLostError: (
            "ObjectFetchTimedOutError",
            "ObjectFreedError",
            "ObjectLostError",
            "ObjectReconstructionFailedError",
            "OwnerDiedError",
            "PlasmaObjectNotAvailable",
            "ReferenceCountingAssertionError",
        ),
        StorageFullError: ("ObjectStoreFullError", "OutOfDiskError"),
        VFSTypeError: ("OufOfBandObjectRefSerializationException", "UnserializableException"),
        StoreUnavailableError: (
            "ActorAlreadyExistsError",
            "ActorHandleNotFoundError",
            "ActorPlacementGroupRemoved",
            "ActorUnschedulableError",
            "AuthenticationError",
            "CrossLanguageError",
            "LocalRayletDiedError",
            "NodeDiedError",
            "ObjectRefStreamEndOfStreamError",
            "PendingCallsLimitExceeded",
            "RayCgraphCapacityExceeded",
            "RayChannelError",
            "RayChannelTimeoutError",
            "RayDirectTransportError",
            "RayError",
            "RaySystemError",
            "RayTaskError",
            "RpcError",
            "RuntimeEnvSetupError",
            "StreamingGeneratorReplayInconsistentError",
            "TaskCancelledError",
            "TaskPlacementGroupRemoved",
            "TaskUnschedulableError",
            "UserCodeException",
        ),
    }.items()
    for name in names
    # Ray renames and adds some from version to version.
    if hasattr(ray_exceptions, name)
}

_MEANING = {
    CallTimeoutError: "no answer arrived within {timeout:g} s; the call may have been executed",
    HostLostError: "the process that runs the backend died; the call may have been executed",
    DataLostError: "the process or node that held the bytes was lost. Make the value again",
    StorageFullError: "the node has no room for the value, neither in its object store nor on its "
    "disk for spilled objects; delete values, or give it more of either",
    VFSTypeError: "the value cannot travel between processes",
    StoreUnavailableError: "the cluster did not serve the call",
}


def is_known_dead(error: StorageError) -> bool:
    """Return whether Ray said that a process is dead, not only that it is out of reach."""
    cause = error.__cause__
    return isinstance(cause, DIED) and not isinstance(cause, ray_exceptions.ActorUnavailableError)


def of_user_code(error: Exception) -> Exception:
    """Return the error of a user's code as it may leave the process that ran it.

    Elsewhere, an error of Ray would mean that the call failed, for example that this process died.
    """
    while isinstance(error, ray_exceptions.RayTaskError):
        error = error.cause
    if not isinstance(error, ray_exceptions.RayError):
        return error
    made = StorageResolutionError(
        f"the backend or function used Ray, and Ray raised "
        f"({type(error).__name__}: {first_line(error)})"
    )
    made.__cause__ = error
    return made


def first_line(error: Exception) -> str:
    """Return the first line of the text of an error."""
    return str(error).strip().partition("\n")[0]


def translated(
    error: Exception, *, backend: str, path: str | None = None, timeout: float = 0.0
) -> Exception:
    """Return the error that a caller should see for one that a call through Ray raised.

    A backend's own error comes back as itself, with the traceback of the other process as a note.
    """
    if isinstance(error, ray_exceptions.RayTaskError):
        cause: Exception = error.cause
        if isinstance(cause, ray_exceptions.RayError):
            return translated(cause, backend=backend, path=path, timeout=timeout)
        if not isinstance(cause, StorageError):
            cause.add_note(f"raised in another process:\n{error}")
        return cause
    if isinstance(error, ray_exceptions.RaySystemError):
        opening = error.client_exc
        if isinstance(opening, StorageError):  # a value arrived, and could not be opened
            return opening.located(path=path, backend=backend)
    for known in type(error).__mro__:
        if known in KNOWN:
            ours = KNOWN[known]
            meaning = _MEANING[ours].format(timeout=round(timeout, 1))
            reason = f"{type(error).__name__}: {first_line(error)}"
            made = ours(f"{meaning} ({reason})", path=path, backend=backend)
            if isinstance(made, HostLostError) and isinstance(error, ray_exceptions.RayActorError):
                made.actor = error.actor_id or ""
            return made
    return error
