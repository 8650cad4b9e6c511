"""Errors that occur only on a cluster. Each is also a `polystore.StorageError`."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from polystore.exceptions import StorageError, StorageResolutionError, StorageWriteError

__all__ = [
    "CallTimeoutError",
    "ClaimLostError",
    "DataEvictedError",
    "DataLostError",
    "HostBusyError",
    "HostLostError",
    "NodeNotFoundError",
    "RecipeError",
    "StoreUnavailableError",
    "TooFewNodesError",
    "WatchExpiredError",
]


class StoreUnavailableError(StorageError, ConnectionError):
    """Signal that the store has ended, or cannot be reached or started.

    Attributes
    ----------
    has_ended : bool
        True if the store is known to have been shut down.
    """

    has_ended: bool = False
    _errno = errno.ECONNREFUSED


class HostLostError(StorageError):
    """Signal that the process of a backend died; the call may or may not have been executed.

    Attributes
    ----------
    actor : str
        The id of the actor that died; empty if Ray does not report it.
    """

    actor: str = ""


class HostBusyError(StorageError):
    """Signal that a host is at its limit of concurrent calls; the call was not executed."""


class NodeNotFoundError(StorageResolutionError, LookupError):
    """Signal that no node of the cluster, or more than one, has the name or the resources."""


class DataLostError(StorageError):
    """Signal that the bytes of a saved value were lost with the node or process that held them.

    Attributes
    ----------
    fallback : tuple of str or None
        The backend and the path of a second copy; None if there is no second copy.
    version : int
        The version of the lost value.
    replicas : int or None
        The number of nodes that were to hold the value.
    """

    fallback: tuple[str, str] | None = None
    version: int = 0
    replicas: int | None = None


class DataEvictedError(DataLostError):
    """Signal that the bytes of a saved value left a full store, which it was saved to allow."""


class RecipeError(DataLostError):
    """Signal that a value that was lost or evicted could not be made again from its recipe.

    Attributes
    ----------
    chain : tuple of str
        The path whose recipe failed, and those that needed it, up to the one that was asked for. In
        a cycle, the first is also the last.
    """

    chain: tuple[str, ...] = ()

    @classmethod
    def of_cycle(cls, chain: Sequence[str]) -> RecipeError:
        """Return the error of recipes that need each other."""
        way = " <- ".join(map(repr, chain))
        error = cls(
            f"the recipe of a value needs the value itself, which is lost: {way}. Save one of them "
            f"again",
            path=chain[0],
            backend="memory",
        )
        error.chain = tuple(chain)
        return error


class CallTimeoutError(StorageError, TimeoutError):
    """Signal that no answer arrived in time; the call may or may not have been executed."""

    _errno = errno.ETIMEDOUT


class ClaimLostError(StorageError):
    """Signal that a claim has run out, or that its value was replaced, moved or deleted."""


class TooFewNodesError(StorageWriteError):
    """Signal that a cluster has fewer nodes than `replicas`; nothing was saved."""


class WatchExpiredError(StorageError):
    """Signal that some events are not known any more: list the directory again, and watch anew."""
