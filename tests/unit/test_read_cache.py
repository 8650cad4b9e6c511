"""What a read cache keeps, for how long, and who loads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import DiskBackend, StorageBackend, ZarrBackend
from polystore_ray.config.backends import BackendOptions
from polystore_ray.hosting.backend_host import BackendHost
from polystore_ray.hosting.read_cache import ReadCache, Shared
from polystore_ray.wire.classes import class_to_bytes
from polystore_ray.wire.envelope import Envelope, open_message

KIB = 1024


def value(message: Any) -> Any:
    if isinstance(message, Shared):
        return message.reference.sealed.open()
    if isinstance(message, tuple):
        return message[0].sealed.open()
    return open_message(message)


class Loads:
    """Loads of arrays that are counted."""

    def __init__(self, capacity: int = 1000 * KIB) -> None:
        self.cache = ReadCache(lambda envelope: Envelope(envelope.sealed.copied()), capacity)
        self.identity: Any = 1
        self.count = 0

    def load(
        self, path: str, size: int = 100 * KIB, during: Callable[[], None] | None = None
    ) -> Any:
        def read() -> Any:
            self.count += 1
            if during is not None:
                during()
            return np.full(size, self.count % 256, np.uint8)

        return value(self.cache.load(path, lambda: self.identity, read))


def test_what_is_the_same_is_loaded_once() -> None:
    loads = Loads()
    assert [loads.load("/a")[0] for _ in range(3)] == [1, 1, 1]
    assert loads.load("/b")[0] == 2
    status = loads.cache.status()
    assert (status["cached"], status["cache_hits"], status["cache_misses"]) == (2, 2, 2)
    assert 200 * KIB < status["cached_bytes"] < 202 * KIB


def test_a_change_is_seen_and_takes_the_place_of_what_was() -> None:
    loads = Loads()
    loads.load("/a")
    loads.identity = 2
    assert loads.load("/a")[0] == 2
    assert loads.cache.status()["cached"] == 1
    loads.identity = 1  # as a tool could set the times
    assert loads.load("/a")[0] == 3


def test_what_changes_during_the_load_is_not_kept() -> None:
    loads = Loads()

    def change() -> None:
        loads.identity += 1

    assert loads.load("/a", during=change)[0] == 1
    assert loads.cache.status()["cached"] == 0
    assert loads.load("/a")[0] == 2


@pytest.mark.parametrize(
    ("identity", "size", "capacity"), [(None, 100, 1000), (1, 1, 1000), (1, 100, 0)]
)
def test_what_has_no_identity_or_is_small_or_too_much_is_not_kept(
    identity: Any, size: int, capacity: int
) -> None:
    loads = Loads(capacity * KIB)
    loads.identity = identity
    assert [loads.load("/a", size * KIB)[0] for _ in range(2)] == [1, 2]
    assert loads.cache.status()["cached_bytes"] == 0


def test_what_was_not_asked_for_longest_goes_first() -> None:
    loads = Loads(capacity=350 * KIB)
    for path in ("/a", "/b", "/c", "/a", "/d"):
        loads.load(path)
    assert loads.cache.status()["cached"] == 3
    assert loads.cache.status()["cached_bytes"] <= 350 * KIB
    count = loads.count
    for path in ("/a", "/c", "/d"):
        loads.load(path)
    assert loads.count == count
    loads.load("/b")
    assert loads.count == count + 1
    loads.load("/huge", 400 * KIB)
    assert loads.cache.status()["cached"] == 3


def test_those_who_load_at_the_same_time_load_once() -> None:
    loads = Loads()
    with ThreadPoolExecutor(8) as threads:
        found = list(
            threads.map(lambda _: loads.load("/a", during=lambda: time.sleep(0.2)), range(8))
        )
    assert {int(array[0]) for array in found} == {1}
    assert loads.count == 1


def test_a_load_that_fails_fails_for_each_by_itself() -> None:
    loads, begun, go = Loads(), threading.Event(), threading.Event()

    def fail() -> None:
        if loads.count == 1:
            begun.set()
            go.wait(10)
            raise OSError(loads.count)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(loads.load, "/a", during=fail)
        begun.wait(10)
        second = threads.submit(loads.load, "/a", during=fail)
        go.set()
        with pytest.raises(OSError, match="1"):
            first.result()
        assert second.result()[0] == 2
    assert loads.load("/a")[0] >= 2


# What identifies the content of a file


def settled(path: Path) -> Path:
    """Wait until nothing can change in the same tick of the coarsest clock."""
    while time.time() - path.stat().st_ctime < 2.05:
        time.sleep(0.05)
    return path


def host(backend: type[StorageBackend], **options: Any) -> BackendHost:
    given = BackendOptions.of("x", options)
    return BackendHost(str(backend._backend_type), class_to_bytes(backend), given)


def test_a_file_that_was_just_written_has_no_identity(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones(3))
    disk, zarr = host(DiskBackend), host(ZarrBackend, root=str(tmp_path))
    assert disk.content_identity(str(path)) is None
    settled(path)
    identity = disk.content_identity(str(path))
    assert identity is not None
    assert disk.content_identity(str(path)) == identity
    assert zarr.content_identity("/a.npy") == identity
    status = path.stat()
    with path.open("r+b") as file:  # as many bytes, and its time set back
        file.seek(status.st_size - 1)
        file.write(b"\1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert disk.content_identity(str(path)) is None
    settled(path)
    assert disk.content_identity(str(path)) not in (None, identity)


def test_arrays_directories_and_what_is_missing_have_no_identity(tmp_path: Path) -> None:
    zarr = host(ZarrBackend)
    ZarrBackend().save(np.ones(3), tmp_path / "array")
    settled(tmp_path / "array" / "zarr.json")
    for path in ("array", "", "missing"):
        assert zarr.content_identity(str(tmp_path / path)) is None
    os.mkfifo(tmp_path / "pipe.npy")
    assert host(DiskBackend).content_identity(str(tmp_path / "pipe.npy")) is None


class Dated(DiskBackend):
    """What it returns depends on more than the file."""

    _backend_type = "dated"

    def load(self, path: Any, **options: Any) -> Any:
        return time.time(), super().load(path, **options)


def test_a_class_with_a_load_of_its_own_is_not_cached_by_surprise(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    settled(path)
    assert host(DiskBackend).content_identity(str(path)) is not None
    assert host(Dated).content_identity(str(path)) is None
