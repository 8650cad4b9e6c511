"""Calls of hosted backends on one node: many at once, a host that dies or is full, the cache."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from polystore import DiskBackend, FileManager, StorageBackend
from polystore.exceptions import PathExistsError, UnsupportedOperationError
from polystore_ray import HostBusyError, HostLostError, RayBackendRegistry
from polystore_ray.deadline import Deadline
from tests.cluster.nodes import eventually, kill
from tests.cluster.test_sharing import private_bytes

pytestmark = pytest.mark.usefixtures("ray_cluster")

MIB = 2**20


class Slow(StorageBackend):
    """A backend of files, whose saves go on until a file called "go" is there."""

    _backend_type = "hosted_slow"

    def __init__(self, top: str) -> None:
        self.top = Path(top)

    def load(self, path: Any) -> Any:
        return (self.top / path.strip("/")).read_text()

    def save(self, data: Any, path: Any) -> None:
        (self.top / f"begun-{data}").touch()
        while not (self.top / "go").exists():
            time.sleep(0.01)
        (self.top / path.strip("/")).write_text(data)

    def is_file(self, path: Any) -> bool:
        return Path(self.top, path.strip("/")).is_file()

    def is_dir(self, path: Any) -> bool:
        return bool(path == "/")

    def list_dir(self, path: Any) -> list[str]:
        return sorted(os.listdir(self.top))

    def close(self) -> None:
        (self.top / "closed").touch()


@pytest.fixture
def registry(tmp_path: Path, ray_cluster: None) -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry(
        uuid.uuid4().hex,
        local=False,
        host_calls=4,
        read_cache=300 * MIB,
        backends={"hosted_slow": {"top": str(tmp_path)}},
    )
    yield registry
    (tmp_path / "go").touch()
    registry.shutdown()


def host(registry: RayBackendRegistry, key: str) -> Any:
    transport = registry._connect()
    return transport.handles.host(key, transport.node, Deadline(60))


def pid(registry: RayBackendRegistry, key: str) -> int:
    found: Any = ray.get(host(registry, key).__ray_call__.remote(lambda _: os.getpid()))
    return int(found)


def test_a_full_host_is_busy_and_other_paths_do_not_wait(
    registry: RayBackendRegistry, tmp_path: Path
) -> None:
    slow = registry["hosted_slow"]
    (tmp_path / "known").write_text("x")
    with ThreadPoolExecutor(5) as threads:
        saves = [threads.submit(slow.save, "one", "/one"), threads.submit(slow.save, "two", "/one")]
        assert eventually(lambda: bool(list(tmp_path.glob("begun-*"))))
        assert slow.load("/known") == "x"
        saves += [threads.submit(slow.save, name, f"/{name}") for name in ("three", "four")]
        assert eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 3)
        assert registry.status().nodes[0].hosted_calls == 4
        start = time.monotonic()
        with pytest.raises(HostBusyError, match=r"host_calls.*'/known' \(backend hosted_slow\)"):
            slow.load("/known")
        assert time.monotonic() - start < 5
        batch = threads.submit(slow.load_batch, ["/known", "/known"])
        (tmp_path / "go").touch()
        assert batch.result(30) == ["x", "x"]
        for save in saves:
            save.result(30)


def test_a_host_killed_in_a_write_says_which_and_the_next_call_has_another(
    registry: RayBackendRegistry, tmp_path: Path
) -> None:
    slow = registry["hosted_slow"]
    killed = pid(registry, "hosted_slow")
    with ThreadPoolExecutor(1) as threads:
        save = threads.submit(slow.save, "one", "/one")
        assert eventually(lambda: (tmp_path / "begun-one").exists())
        kill(killed)
        with pytest.raises(HostLostError, match=r"died.*'/one' \(backend hosted_slow\)"):
            save.result(60)
    assert not slow.is_file("/one")
    (tmp_path / "go").touch()
    slow.save("one", "/one")
    assert pid(registry, "hosted_slow") != killed


def test_the_end_of_a_store_closes_its_backends(
    registry: RayBackendRegistry, tmp_path: Path
) -> None:
    registry["hosted_slow"].list_dir("/")
    registry.shutdown()
    assert (tmp_path / "closed").exists()


def test_a_method_outside_the_contract_is_not_run(registry: RayBackendRegistry) -> None:
    with pytest.raises(UnsupportedOperationError, match="Slow has no operation 'close'"):
        registry._connect().call_host("hosted_slow", None, "close", ("/",), {})


@ray.remote(num_cpus=0)
class Reader:
    def __init__(self, registry: RayBackendRegistry) -> None:
        self.disk = registry["disk"]
        self.disk.exists("/")
        float(np.ones(MIB).sum())

    def load(self, path: str) -> tuple[float, int]:
        before = private_bytes()
        array = self.disk.load(path)
        assert not array.flags.writeable
        return float(array[-1, -1]), private_bytes() - before


def test_four_tasks_that_load_one_file_read_it_once_and_share_it(
    registry: RayBackendRegistry, tmp_path: Path
) -> None:
    path = tmp_path / "large.tif"
    DiskBackend().save(np.full((16 * 1024, 16 * 1024), 7, np.uint8), path)
    kind: Any = Reader
    readers = [kind.remote(registry) for _ in range(4)]
    ray.get([reader.__ray_ready__.remote() for reader in readers])
    time.sleep(2.1)  # or the next change could bear the same time
    memory_of_host: Any = host(registry, "disk").__ray_call__
    before = ray.get(memory_of_host.remote(lambda _: private_bytes()))
    found = ray.get([reader.load.remote(str(path)) for reader in readers])
    after = ray.get(memory_of_host.remote(lambda _: private_bytes()))
    assert {value for value, _ in found} == {7.0}
    assert sum(grown for _, grown in found) + after - before < 1.2 * 256 * MIB
    [node] = registry.status().nodes
    assert (node.cache_misses, node.cache_hits, node.cached) == (1, 3, 1)
    assert 256 * MIB <= node.cached_bytes <= 300 * MIB


def anonymous_bytes(_: Any) -> int:
    """Return the memory of a process that is not in the object store."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024


def test_a_large_batch_never_is_in_the_host_as_a_whole(
    registry: RayBackendRegistry, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.npy" for number in range(24)]
    for number, path in enumerate(paths):
        DiskBackend().save(np.full(12 * MIB, number, np.uint8), path)
    disk = registry["disk"]
    disk.load_batch(paths[:1])
    memory: Any = host(registry, "disk").__ray_call__
    before = own = ray.get(memory.remote(anonymous_bytes))
    here, peak = anonymous_bytes(None), 0
    with ThreadPoolExecutor(1) as threads:
        batch = threads.submit(disk.load_batch, paths)
        while not batch.done():
            own = max(own, ray.get(memory.remote(anonymous_bytes)))
            peak = max(peak, anonymous_bytes(None))
        found = batch.result()
    assert [int(array[-1]) for array in found] == list(range(24))
    assert 12 * MIB < own - before < 160 * MIB  # of 288
    assert peak - here < 32 * MIB


def test_a_changed_file_is_never_served_as_it_was(
    registry: RayBackendRegistry, tmp_path: Path
) -> None:
    fm, path = FileManager(registry), tmp_path / "a.npy"
    fm.save(np.zeros(MIB), path, backend="disk")
    time.sleep(2.1)
    for number in range(1, 4):
        assert fm.load(path, backend="disk")[0] == number - 1
        assert fm.load(path, backend="disk")[0] == number - 1
        if number == 2:
            status = path.stat()
            with path.open("r+b") as file:
                file.seek(-8 * MIB, os.SEEK_END)
                file.write(np.full(MIB, 2.0).tobytes())
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        else:
            fm.save(np.full(MIB, float(number)), path, backend="disk", overwrite=True)
        assert fm.load(path, backend="disk")[0] == number
        if number == 1:
            time.sleep(2.1)
    with pytest.raises(PathExistsError):
        fm.save(1, path, backend="disk")
    assert registry.status().nodes[0].cache_hits >= 2


def test_what_a_dead_host_kept_is_read_again(registry: RayBackendRegistry, tmp_path: Path) -> None:
    disk, path = registry["disk"], str(tmp_path / "a.npy")
    disk.save(np.ones(MIB), path)
    time.sleep(2.1)
    first = disk.load(path)
    assert disk.load(path)[0] == 1
    kill(pid(registry, "disk"))
    assert disk.load(path)[0] == 1
    assert first.sum() == MIB
