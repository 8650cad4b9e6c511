"""polystore on a Ray cluster: every backend, and one shared memory, in every process."""

# ruff: noqa: E402 - the check comes first, since the other imports would fail without a reason

from __future__ import annotations

from polystore_ray import other_project

other_project.check()

from polystore_ray.client.recipes import Input
from polystore_ray.errors import (
    CallTimeoutError,
    ClaimLostError,
    DataEvictedError,
    DataLostError,
    HostBusyError,
    HostLostError,
    NodeNotFoundError,
    RecipeError,
    StoreUnavailableError,
    TooFewNodesError,
    WatchExpiredError,
)
from polystore_ray.registry import RayBackendRegistry

__all__ = [
    "CallTimeoutError",
    "ClaimLostError",
    "DataEvictedError",
    "DataLostError",
    "HostBusyError",
    "HostLostError",
    "Input",
    "NodeNotFoundError",
    "RayBackendRegistry",
    "RecipeError",
    "StoreUnavailableError",
    "TooFewNodesError",
    "WatchExpiredError",
]
