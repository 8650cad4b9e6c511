"""The contract, through a registry that shares: in local mode, and on a Ray cluster."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, ClassVar

import backends
import cloudpickle
import pytest
from backends import ArchiveAccess, ZarrAccess

from polystore import FileManager
from polystore.testing import (
    AtomicBatches,
    AtomicMoves,
    Awaited,
    Batches,
    Claimed,
    Concurrency,
    Damage,
    Described,
    Directories,
    Evicting,
    Expiring,
    FileAccess,
    Growing,
    Links,
    Objects,
    Readable,
    ReadOnly,
    Regions,
    Traces,
    Transfers,
    VirtualPaths,
    Watched,
    Writable,
    WriteOnce,
)
from polystore_ray import RayBackendRegistry


class All(
    Readable, Described, Writable, Directories, Links, Batches, Regions, Transfers, Concurrency
):
    """What every built-in backend can do."""


class Local:
    @pytest.fixture
    def registry(self) -> RayBackendRegistry:
        return RayBackendRegistry("conformance", local=True)


@pytest.mark.usefixtures("ray_cluster")
class OnRay:
    rounds: ClassVar[int] = 5

    @pytest.fixture
    def registry(self) -> RayBackendRegistry:
        # No worker can import the tests' own backends.
        cloudpickle.register_pickle_by_value(backends)
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


class Flow(Awaited, Claimed, Expiring):
    pass


class Full:
    """A store with room for few values, of which small ones take about 50 bytes."""

    suffix: ClassVar[str] = ""
    local: ClassVar[bool] = True

    @pytest.fixture
    def backend(self) -> Any:
        registry = RayBackendRegistry("full", local=self.local, max_bytes=1000, eviction="lru")
        return registry["memory"]

    @pytest.fixture
    def root(self, backend: Any) -> str:
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

    @pytest.fixture
    def raw(self, tmp_path: Path) -> FileAccess:
        return FileAccess(tmp_path, str(tmp_path))


class Zarr(Hosted):
    key = "zarr"

    @pytest.fixture
    def raw(self, tmp_path: Path) -> FileAccess:
        return ZarrAccess(tmp_path, str(tmp_path))


class Archive(Hosted):
    key = "kit_archive"

    @pytest.fixture
    def root(self, backend: Any, tmp_path: Path) -> str:
        return str(tmp_path / "archive.zip")

    @pytest.fixture
    def raw(self, tmp_path: Path) -> ArchiveAccess:
        return ArchiveAccess(tmp_path / "archive.zip")


class TestLocalMemory(Local, Memory, All, Watched, AtomicBatches, AtomicMoves):
    pass


class TestLocalObjects(Local, Memory, Objects):
    pass


class TestLocalFlow(Local, Memory, Flow):
    pass


class TestLocalEviction(Full, Evicting):
    pass


class TestLocalDisk(Local, Disk, All, Watched, Damage, Traces):
    pass


class TestLocalZarr(Local, Zarr, All, Growing, Damage, Traces):
    pass


class TestLocalReadOnly(Local, Archive, Readable, Directories, ReadOnly, Damage):
    pass


class TestLocalFiveMethods(Readable, WriteOnce, Batches, VirtualPaths, Concurrency):
    suffix: ClassVar[str] = ""

    @pytest.fixture
    def backend(self, polystore_local: FileManager) -> Any:
        return polystore_local.registry["kit_shelf"]


class TestRayMemory(OnRay, Memory, All, Watched, AtomicBatches, AtomicMoves):
    pass


class TestRayObjects(OnRay, Memory, Objects):
    pass


class TestRayFlow(OnRay, Memory, Flow):
    pass


@pytest.mark.usefixtures("ray_cluster")
class TestRayEviction(Full, Evicting):
    local: ClassVar[bool] = False


class TestRayDisk(OnRay, Disk, All, Watched, Damage, Traces):
    pass


class TestRayZarr(OnRay, Zarr, All, Growing, Damage, Traces):
    pass


class TestRayReadOnly(OnRay, Archive, Readable, Directories, ReadOnly, Damage):
    pass
