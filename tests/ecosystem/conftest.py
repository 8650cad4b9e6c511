"""What the tests of the ecosystem share: stores in local mode, and one on a cluster."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from polystore_ray import RayBackendRegistry


@pytest.fixture(scope="module")
def shared_registry(ray_cluster: None) -> Iterator[RayBackendRegistry]:
    """Return the store on the cluster of all tests of a module, since its actors take a second."""
    registry = RayBackendRegistry(f"ecosystem-{uuid.uuid4().hex}", local=False)
    yield registry
    registry.shutdown()


@pytest.fixture
def registry(request: pytest.FixtureRequest) -> Iterator[RayBackendRegistry]:
    """Return a store in local mode, or the one on the cluster where the class says so."""
    if not getattr(request.cls, "local", True):
        yield request.getfixturevalue("shared_registry")
        return
    registry = RayBackendRegistry(f"ecosystem-{uuid.uuid4().hex}", local=True)
    yield registry
    registry.shutdown()


@pytest.fixture
def place() -> str:
    """Return a directory that no other test has."""
    return f"/{uuid.uuid4().hex}"
