"""The contract, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from backends import Archive, ArchiveAccess, Defaults, Shelf, ZarrAccess

from polystore import DiskBackend, MemoryBackend, UnsupportedOperationError, ZarrBackend
from polystore.testing import (
    AtomicBatches,
    AtomicMoves,
    Batches,
    Concurrency,
    Damage,
    Described,
    Directories,
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


class All(
    Readable, Described, Writable, Directories, Links, Batches, Regions, Transfers, Concurrency
):
    """What every built-in backend can do."""


class TestMemory(All, VirtualPaths, AtomicBatches, AtomicMoves):
    suffix: ClassVar[str] = ""

    @pytest.fixture
    def backend(self) -> MemoryBackend:
        return MemoryBackend()


class TestMemoryObjects(Objects):
    @pytest.fixture
    def backend(self) -> MemoryBackend:
        return MemoryBackend()


class TestDisk(All, Watched, Damage, Traces):
    @pytest.fixture
    def backend(self) -> Any:
        return DiskBackend()

    @pytest.fixture
    def root(self, backend: Any, tmp_path: Path) -> str:
        return str(tmp_path)

    @pytest.fixture
    def raw(self, tmp_path: Path) -> FileAccess:
        return FileAccess(tmp_path, str(tmp_path))


class TestRootedDisk(All, Watched, VirtualPaths, Damage, Traces):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Any:
        return DiskBackend(tmp_path)

    @pytest.fixture
    def raw(self, tmp_path: Path) -> FileAccess:
        return FileAccess(tmp_path)


class TestZarr(TestDisk, Growing):
    @pytest.fixture
    def backend(self) -> Any:
        return ZarrBackend()

    @pytest.fixture
    def raw(self, tmp_path: Path) -> ZarrAccess:
        return ZarrAccess(tmp_path, str(tmp_path))


class TestRootedZarr(TestRootedDisk, Growing):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Any:
        return ZarrBackend(tmp_path)

    @pytest.fixture
    def raw(self, tmp_path: Path) -> ZarrAccess:
        return ZarrAccess(tmp_path)


class TestFiveMethods(Readable, WriteOnce, Batches, VirtualPaths, Concurrency):
    """A custom backend that writes no more than it has to."""

    suffix: ClassVar[str] = ""

    @pytest.fixture
    def backend(self) -> Shelf:
        return Shelf()

    def test_what_it_does_not_offer_is_told_and_changes_nothing(self, backend: Shelf) -> None:
        backend.save(1, "/a")
        for operation, arguments in {
            "delete": ("/a",),
            "delete_all": ("/a",),
            "ensure_directory": ("/d",),
            "create_symlink": ("/a", "/b"),
            "move": ("/a", "/b"),
        }.items():
            with pytest.raises(UnsupportedOperationError) as caught:
                getattr(backend, operation)(*arguments)
            assert caught.value.path in arguments
            assert caught.value.backend == "kit_shelf"
            assert backend.list_dir("/") == ["a"]


class TestDefaults(Readable, Writable, Directories, Batches, Transfers):
    """A custom backend that writes what has no default, and leaves the rest."""

    deviations: ClassVar[dict[str, str]] = {
        "test_a_path_in_two_spellings_occurs_twice": "the default compares paths as they are spelt",
    }
    suffix: ClassVar[str] = ""

    @pytest.fixture
    def backend(self) -> Defaults:
        return Defaults()


class TestReadOnly(Readable, Directories, ReadOnly, Damage):
    @pytest.fixture
    def backend(self) -> Archive:
        return Archive()

    @pytest.fixture
    def root(self, backend: Any, tmp_path: Path) -> str:
        return str(tmp_path / "archive.zip")

    @pytest.fixture
    def raw(self, tmp_path: Path) -> ArchiveAccess:
        return ArchiveAccess(tmp_path / "archive.zip")
