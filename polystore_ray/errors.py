"""The errors that only a cluster can have; like all errors, they are a `polystore.StorageError`."""

from __future__ import annotations

import errno

from polystore.exceptions import StorageError

__all__ = ["CallTimeoutError", "DataLostError", "HostLostError", "StoreUnavailableError"]


class StoreUnavailableError(StorageError, ConnectionError):
    """Signal that the store cannot be reached or started, or has ended."""

    _errno = errno.ECONNREFUSED


class HostLostError(StorageError):
    """Signal that the process that ran the backend died; the call may have been executed."""


class DataLostError(StorageError):
    """Signal that a saved value existed and its bytes are gone, with the node that held them."""


class CallTimeoutError(StorageError, TimeoutError):
    """Signal that no answer came by the deadline; the call may have been executed."""

    _errno = errno.ETIMEDOUT
