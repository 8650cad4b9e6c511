"""polystore on a Ray cluster: every backend, and one shared memory, in every process."""

from __future__ import annotations

from polystore_ray.errors import (
    CallTimeoutError,
    DataLostError,
    HostBusyError,
    HostLostError,
    NodeNotFoundError,
    StoreUnavailableError,
    TooFewNodesError,
)
from polystore_ray.registry import RayBackendRegistry

__all__ = [
    "CallTimeoutError",
    "DataLostError",
    "HostBusyError",
    "HostLostError",
    "NodeNotFoundError",
    "RayBackendRegistry",
    "StoreUnavailableError",
    "TooFewNodesError",
]
