"""polystore on a Ray cluster: every backend, and one shared memory, in every process."""

# ruff: noqa: E402 - the check comes first, since the other imports would fail without a reason

from __future__ import annotations

from polystore_ray import other_project

other_project.check()

from polystore_ray.errors import (
    CallTimeoutError,
    ClaimLostError,
    DataLostError,
    HostBusyError,
    HostLostError,
    NodeNotFoundError,
    StoreUnavailableError,
    TooFewNodesError,
    WatchExpiredError,
)
from polystore_ray.registry import RayBackendRegistry

__all__ = [
    "CallTimeoutError",
    "ClaimLostError",
    "DataLostError",
    "HostBusyError",
    "HostLostError",
    "NodeNotFoundError",
    "RayBackendRegistry",
    "StoreUnavailableError",
    "TooFewNodesError",
    "WatchExpiredError",
]
