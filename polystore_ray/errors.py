"""The errors that only a cluster can have; like all errors, they are a `polystore.StorageError`."""

from __future__ import annotations

import errno

from polystore.exceptions import StorageError, StorageResolutionError, StorageWriteError

__all__ = [
    "CallTimeoutError",
    "DataLostError",
    "HostBusyError",
    "HostLostError",
    "NodeNotFoundError",
    "StoreUnavailableError",
    "TooFewNodesError",
]


class StoreUnavailableError(StorageError, ConnectionError):
    """Signal that the store cannot be reached or started, or has ended.

    Attributes
    ----------
    has_ended : bool
        Whether it is known that the store was shut down.
    """

    has_ended: bool = False
    _errno = errno.ECONNREFUSED


class HostLostError(StorageError):
    """Signal that the process that ran the backend died; the call may have been executed.

    Attributes
    ----------
    actor : str
        The id of the actor that died, where Ray tells it.
    """

    actor: str = ""


class HostBusyError(StorageError):
    """Signal that a host has as many calls as it may; the call was not executed."""


class NodeNotFoundError(StorageResolutionError, LookupError):
    """Signal that a name fits no node that is in the cluster, or several, or not what is needed."""


class DataLostError(StorageError):
    """Signal that a saved value existed and its bytes are gone, with the node that held them.

    Attributes
    ----------
    fallback : tuple of str or None
        The backend and the path where the value was persisted too, if it was.
    version : int
        The version of the value that is lost.
    replicas : int or None
        On how many nodes it was to be held.
    """

    fallback: tuple[str, str] | None = None
    version: int = 0
    replicas: int | None = None


class CallTimeoutError(StorageError, TimeoutError):
    """Signal that no answer came by the deadline; the call may have been executed."""

    _errno = errno.ETIMEDOUT


class TooFewNodesError(StorageWriteError):
    """Signal that a cluster has fewer nodes than a value is to have replicas; nothing is saved."""
