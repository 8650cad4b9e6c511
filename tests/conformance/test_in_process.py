"""The contract, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from polystore import DiskBackend, MemoryBackend, ZarrBackend
from polystore.testing import (
    AtomicBatches,
    Batches,
    Directories,
    Links,
    Objects,
    Readable,
    Regions,
    Transfers,
    VirtualPaths,
    Writable,
)


class All(Readable, Writable, Directories, Links, Batches, Regions, Transfers):
    """What every built-in backend can do."""


class TestMemory(All, VirtualPaths, AtomicBatches):
    suffix: ClassVar[str] = ""

    @pytest.fixture
    def backend(self) -> MemoryBackend:
        return MemoryBackend()


class TestMemoryObjects(Objects):
    @pytest.fixture
    def backend(self) -> MemoryBackend:
        return MemoryBackend()


class TestDisk(All):
    @pytest.fixture
    def backend(self) -> Any:
        return DiskBackend()

    @pytest.fixture
    def root(self, backend: Any, tmp_path: Path) -> str:
        return str(tmp_path)


class TestRootedDisk(All, VirtualPaths):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Any:
        return DiskBackend(tmp_path)


class TestZarr(TestDisk):
    @pytest.fixture
    def backend(self) -> Any:
        return ZarrBackend()


class TestRootedZarr(All, VirtualPaths):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Any:
        return ZarrBackend(tmp_path)
