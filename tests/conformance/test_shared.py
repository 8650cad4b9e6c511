"""The contract, through a registry that shares: in local mode, and on a Ray cluster."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, ClassVar

import pytest

from polystore.testing import (
    AtomicBatches,
    Batches,
    Directories,
    Links,
    Objects,
    Readable,
    Regions,
    Transfers,
    Writable,
)
from polystore_ray import RayBackendRegistry


class All(Readable, Writable, Directories, Links, Batches, Regions, Transfers):
    """What every built-in backend can do."""


class Local:
    @pytest.fixture
    def registry(self) -> RayBackendRegistry:
        return RayBackendRegistry("conformance", local=True)


@pytest.mark.usefixtures("ray_cluster")
class OnRay:
    @pytest.fixture
    def registry(self) -> RayBackendRegistry:
        return RayBackendRegistry("conformance", local=False)


class Memory:
    suffix: ClassVar[str] = ""

    @pytest.fixture
    def backend(self, registry: RayBackendRegistry) -> Any:
        return registry["memory"]

    @pytest.fixture
    def root(self, backend: Any) -> str:
        # A store takes seconds to start, so that tests share one.
        return str(backend.ensure_directory(f"/{uuid.uuid4().hex}"))


class Hosted:
    key: ClassVar[str]

    @pytest.fixture
    def backend(self, registry: RayBackendRegistry) -> Any:
        return registry[self.key]

    @pytest.fixture
    def root(self, backend: Any, tmp_path: Path) -> str:
        return str(tmp_path)


class Disk(Hosted):
    key = "disk"


class Zarr(Hosted):
    key = "zarr"


class TestLocalMemory(Local, Memory, All, AtomicBatches):
    pass


class TestLocalObjects(Local, Memory, Objects):
    pass


class TestLocalDisk(Local, Disk, All):
    pass


class TestLocalZarr(Local, Zarr, All):
    pass


class TestRayMemory(OnRay, Memory, All, AtomicBatches):
    pass


class TestRayObjects(OnRay, Memory, Objects):
    pass


class TestRayDisk(OnRay, Disk, All):
    pass


class TestRayZarr(OnRay, Zarr, All):
    pass
