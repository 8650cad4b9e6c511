"""The host of a backend, without Ray: many calls, busy, pieces, its end."""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from polystore import StorageBackend
from polystore.exceptions import StorageResolutionError, UnsupportedOperationError
from polystore_ray import HostBusyError, RayBackendRegistry
from polystore_ray.config.backends import BackendOptions
from polystore_ray.hosting.backend_host import BackendHost
from polystore_ray.wire.classes import class_to_bytes
from polystore_ray.wire.messages import HostEndedError
from tests.cluster.nodes import eventually

MIB = 2**20


class Gated(StorageBackend):
    """One whose saves wait at a gate, and which notices two at one path."""

    _backend_type = "gated"
    gate = threading.Event()
    begun = threading.Semaphore(0)
    writing: dict[str, int]

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.asked: list[int] = []
        self.closed = 0
        type(self).last = self

    last: Any = None

    def load(self, path: Any) -> Any:
        return self.values[path]

    def load_batch(self, paths: Any) -> list[Any]:
        self.asked.append(len(paths))
        return [self.values[path] for path in paths]

    def save(self, data: Any, path: Any) -> None:
        if path in self.values and self.values[path] is None:
            raise AssertionError(path)
        self.values[path] = None
        type(self).begun.release()
        assert type(self).gate.wait(30)
        self.values[path] = data

    def is_file(self, path: Any) -> bool:
        return path in self.values

    def is_dir(self, path: Any) -> bool:
        return bool(path == "/")

    def list_dir(self, path: Any) -> list[str]:
        return sorted(self.values)

    def vacuum(self) -> None:
        raise AssertionError

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def registry() -> Iterator[RayBackendRegistry]:
    Gated.gate, Gated.begun = threading.Event(), threading.Semaphore(0)
    registry = RayBackendRegistry(uuid.uuid4().hex, local=True, host_calls=3)
    yield registry
    Gated.gate.set()
    registry.shutdown()


def test_a_slow_call_blocks_no_other_and_one_path_is_written_by_one(
    registry: RayBackendRegistry,
) -> None:
    backend = registry["gated"]
    with ThreadPoolExecutor(2) as threads:
        saves = [threads.submit(backend.save, i, "/same") for i in range(2)]
        assert Gated.begun.acquire(timeout=10)
        assert backend.is_file("/same")
        assert not Gated.begun.acquire(timeout=0.1)
        Gated.gate.set()
        for save in saves:
            save.result(10)


def test_a_full_host_says_so_at_once_and_a_batch_waits(registry: RayBackendRegistry) -> None:
    backend = registry["gated"]
    with ThreadPoolExecutor(4) as threads:
        saves = [threads.submit(backend.save, i, f"/{i}") for i in range(3)]
        for _ in saves:
            assert Gated.begun.acquire(timeout=10)
        with pytest.raises(HostBusyError, match=r"3 calls.*host_calls.*backend gated"):
            backend.is_file("/0")
        batch = threads.submit(backend.load_batch, ["/0", "/1"])
        Gated.gate.set()
        assert batch.result(10) == [0, 1]
        for save in saves:
            save.result(10)
    assert backend.is_file("/0")


def test_a_batch_that_finds_no_room_by_the_deadline_says_so() -> None:
    Gated.gate, Gated.begun = threading.Event(), threading.Semaphore(0)
    registry = RayBackendRegistry(uuid.uuid4().hex, local=True, host_calls=1, timeout=0.2)
    with ThreadPoolExecutor(1) as threads:
        save = threads.submit(registry["gated"].save, 1, "/a")
        assert Gated.begun.acquire(timeout=10)
        with pytest.raises(HostBusyError):
            registry["gated"].load_batch(["/a"])
        Gated.gate.set()
        save.result(10)
    registry.shutdown()


def test_a_large_batch_comes_in_pieces(registry: RayBackendRegistry) -> None:
    Gated.gate.set()
    backend = registry["gated"]
    for i in range(20):
        backend.save(np.full(16 * MIB, i, np.uint8), f"/{i}")
    steps: list[tuple[int, int]] = []
    found = backend.load_batch([f"/{i}" for i in range(20)], progress=lambda *s: steps.append(s))
    assert [int(array[0]) for array in found] == list(range(20))
    pieces = [
        b - a for a, b in zip([0, *(s for s, _ in steps)], [s for s, _ in steps], strict=False)
    ]
    assert sum(pieces) == 20
    assert max(pieces) <= 5  # of 16 MiB each
    assert backend.load_batch([]) == []
    assert max(Gated.last.asked) <= 4


def test_small_values_of_a_batch_take_few_calls(registry: RayBackendRegistry) -> None:
    Gated.gate.set()
    backend = registry["gated"]
    for i in range(1500):
        backend.save(i, f"/{i}")
    assert backend.load_batch([f"/{i}" for i in range(1500)]) == list(range(1500))
    assert len(Gated.last.asked) < 25


def test_only_the_contract_is_run(registry: RayBackendRegistry) -> None:
    with pytest.raises(UnsupportedOperationError, match="Gated has no operation 'vacuum'"):
        registry["gated"]._run("vacuum", "/")
    with pytest.raises(UnsupportedOperationError, match="Gated has no operation '__init__'"):
        registry["gated"]._run("__init__", "/")
    with pytest.raises(AttributeError, match=r"'vacuum' is no operation.*Gated"):
        registry["gated"].vacuum()


def test_a_host_ends_after_its_calls_and_closes_its_backend_once() -> None:
    Gated.gate, Gated.begun = threading.Event(), threading.Semaphore(0)
    host = BackendHost("gated", class_to_bytes(Gated), BackendOptions())

    def save() -> None:
        with host.admitted():
            host.call("save", (1, "/a"), {})

    with ThreadPoolExecutor(2) as threads:
        saving = threads.submit(save)
        assert Gated.begun.acquire(timeout=10)
        assert host.calls == 1
        ending = threads.submit(host.close)
        assert eventually(lambda: host._has_ended)
        with pytest.raises(HostEndedError), host.admitted():
            pass
        assert Gated.last.closed == 0
        Gated.gate.set()
        saving.result(10)
        ending.result(10)
    assert Gated.last.closed == 1
    host.close()
    assert Gated.last.closed == 1


class Leaving(StorageBackend):
    """One that ends its program, as what was written for the command line does."""

    _backend_type = "leaving"

    def __init__(self) -> None:
        if type(self).refuses:
            sys.exit("no such option")

    refuses = False

    def load(self, path: Any) -> Any:
        sys.exit("usage: leaving FILE")

    def save(self, data: Any, path: Any) -> None:
        raise SystemExit

    def is_file(self, path: Any) -> bool:
        return True

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return []


def test_a_backend_that_calls_sys_exit_ends_its_call_only() -> None:
    registry = RayBackendRegistry(uuid.uuid4().hex, local=True, host_calls=1)
    backend = registry["leaving"]
    for _ in range(2):
        with pytest.raises(StorageResolutionError, match=r"sys\.exit\('usage: leaving FILE'\)"):
            backend.load("/a")
        with pytest.raises(StorageResolutionError, match=r"sys\.exit\(None\)"):
            backend.save(1, "/a")
        assert backend.exists("/a")
    registry.shutdown()
    Leaving.refuses = True
    with pytest.raises(StorageResolutionError, match="no such option"):
        backend.exists("/a")
    Leaving.refuses = False
    assert backend.exists("/a")
    registry.shutdown()
