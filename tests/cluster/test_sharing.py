"""What tasks, actors and drivers of one job share."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from polystore import BackendRegistry, FileManager, StorageBackend
from polystore.exceptions import PathNotFoundError, StorageResolutionError, VFSTypeError
from polystore_ray import RayBackendRegistry, StoreUnavailableError

pytestmark = pytest.mark.usefixtures("ray_cluster")

MIB = 2**20


@pytest.fixture
def fm() -> FileManager:
    return FileManager(RayBackendRegistry())


def private_bytes() -> int:
    """Return the memory that only this process has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


@ray.remote(max_calls=1)
def read(fm: FileManager, path: str) -> dict[str, Any]:
    fm.exists(path, backend="memory")
    float(np.ones(MIB).sum())
    before = private_bytes()
    array = fm.load(path, backend="memory")
    total = float(array.sum())
    return {
        "grown": private_bytes() - before,
        "total": total,
        "writeable": array.flags.writeable,
        "owns": array.flags.owndata,
        "pid": os.getpid(),
    }


def test_four_readers_share_the_bytes_of_one_array(fm: FileManager) -> None:
    image = np.arange(8 * MIB, dtype=np.float64)
    fm.save(image, "/sharing/big", backend="memory")
    readers = ray.get([read.remote(fm, "/sharing/big") for _ in range(4)])
    assert {reader["total"] for reader in readers} == {float(image.sum())}
    assert not any(reader["writeable"] or reader["owns"] for reader in readers)
    assert len({reader["pid"] for reader in readers} | {os.getpid()}) == 5
    assert sum(reader["grown"] for reader in readers) < 32 * MIB


@ray.remote
class Writer:
    def save(self, path: str) -> int:
        FileManager(RayBackendRegistry()).save(np.full(MIB, 7), path, backend="memory")
        return os.getpid()


def test_a_value_outlives_the_process_that_saved_it(fm: FileManager) -> None:
    writer = Writer.remote()  # type: ignore[attr-defined]
    pid = ray.get(writer.save.remote("/sharing/orphan"))
    os.kill(pid, 9)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(writer.save.remote("/sharing/never"))
    for _ in range(2):
        orphan = fm.load("/sharing/orphan", backend="memory")
        np.testing.assert_array_equal(orphan, np.full(MIB, 7))
        assert not orphan.flags.writeable


def test_an_adopted_batch_keeps_its_order(fm: FileManager) -> None:
    @ray.remote
    class Batch:
        def save(self) -> None:
            values = [np.full(MIB // 8, i) for i in range(3)]
            fm = FileManager(RayBackendRegistry())
            fm.save_batch(values, [f"/sharing/batch/{i}" for i in range(3)], backend="memory")

    writer = Batch.remote()  # type: ignore[attr-defined]
    ray.get(writer.save.remote())
    ray.kill(writer)
    fm.save("small", "/sharing/batch/s", backend="memory")
    paths = ["/sharing/batch/2", "/sharing/batch/s", "/sharing/batch/0", "/sharing/batch/1"]
    two, small, zero, one = fm.load_batch(paths, backend="memory")
    assert (two[0], small, zero[0], one[0]) == (2, "small", 0, 1)


def test_a_reader_keeps_what_it_loaded(fm: FileManager) -> None:
    fm.save(np.zeros(MIB), "/sharing/kept", backend="memory")
    kept = fm.load("/sharing/kept", backend="memory")
    fm.save(np.ones(MIB), "/sharing/kept", backend="memory", overwrite=True)
    assert fm.load("/sharing/kept", backend="memory").sum() == MIB
    fm.delete("/sharing/kept", backend="memory")
    assert kept.sum() == 0


def test_the_file_manager_travels_as_argument_and_closure_and_is_made_anew(
    fm: FileManager,
) -> None:
    @ray.remote
    def by_argument(fm: FileManager) -> None:
        fm.save(1, "/sharing/ways/argument", backend="memory")

    @ray.remote
    def by_closure() -> None:
        fm.save(2, "/sharing/ways/closure", backend="memory")

    @ray.remote
    def anew() -> None:
        FileManager(RayBackendRegistry()).save(3, "/sharing/ways/anew", backend="memory")

    ray.get([by_argument.remote(fm), by_closure.remote(), anew.remote()])
    assert fm.list_dir("/sharing/ways", backend="memory") == ["anew", "argument", "closure"]


def test_two_stores_share_nothing(fm: FileManager) -> None:
    registry = RayBackendRegistry("other")
    other = FileManager(registry)
    try:
        fm.save(1, "/sharing/here", backend="memory")
        assert not other.exists("/sharing/here", backend="memory")
    finally:
        registry.shutdown()


def test_after_shutdown_a_store_starts_empty() -> None:
    registry = RayBackendRegistry("passing")
    fm = FileManager(registry)
    registry.shutdown()
    fm.save(1, "/a", backend="memory")
    registry.shutdown()
    assert not fm.exists("/a", backend="memory")
    registry.shutdown()


class Reader:
    def load(self, fm: FileManager, path: str) -> Any:
        return fm.load(path, backend="memory")


@pytest.mark.parametrize("lifetime", ["job", "detached"])
def test_a_process_that_used_a_store_uses_the_next_one_of_its_name(lifetime: Any) -> None:
    registry = RayBackendRegistry("once-more", lifetime=lifetime)
    fm = FileManager(registry)
    reader: Any = ray.remote(num_cpus=0)(Reader).remote()
    fm.save(1, "/a", backend="memory")
    assert ray.get(reader.load.remote(fm, "/a")) == 1
    former = pickle.loads(pickle.dumps(fm))
    registry.shutdown()
    fm.save(2, "/a", backend="memory")
    assert ray.get(reader.load.remote(fm, "/a")) == 2
    with pytest.raises(StoreUnavailableError, match="was shut down"):
        ray.get(reader.load.remote(former, "/a"))
    assert ray.get(reader.load.remote(fm, "/a")) == 2
    registry.shutdown()
    ray.kill(reader)


def test_an_object_reference_cannot_be_saved(fm: FileManager) -> None:
    with pytest.raises(VFSTypeError, match="ObjectRef"):
        fm.save({"nested": [ray.put(1)]}, "/sharing/ref", backend="memory")
    assert not fm.exists("/sharing/ref", backend="memory")


def test_a_region_is_saved_without_losing_others(fm: FileManager) -> None:
    fm.save(np.zeros((64, 1024)), "/sharing/region", backend="memory")

    @ray.remote
    def fill(fm: FileManager, row: int) -> None:
        fm.save(row, "/sharing/region", backend="memory", parents=False, region=(row,))

    ray.get([fill.remote(fm, row) for row in range(8)])
    loaded = fm.load("/sharing/region", backend="memory", region=(slice(0, 8), 0))
    np.testing.assert_array_equal(loaded, np.arange(8))


def test_relative_disk_paths_are_those_of_the_caller(
    fm: FileManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fm.save(np.arange(3), "folder/a.npy", backend="disk")
    assert (tmp_path / "folder" / "a.npy").exists()
    assert fm.list_files("folder", backend="disk") == ["folder/a.npy"]
    loaded = fm.load("folder/a.npy", backend="disk")
    np.testing.assert_array_equal(loaded, np.arange(3))
    assert not loaded.flags.writeable


def test_large_arrays_pass_through_hosted_backends(fm: FileManager, tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (512, 1024), dtype=np.uint8)
    fm.save(image, tmp_path / "image.npy", backend="disk")
    fm.save(image, tmp_path / "image", backend="zarr")
    np.testing.assert_array_equal(fm.load(tmp_path / "image.npy", backend="disk"), image)
    np.testing.assert_array_equal(fm.load(tmp_path / "image", backend="zarr"), image)


def test_the_errors_of_a_hosted_backend_arrive_as_themselves(
    fm: FileManager, tmp_path: Path
) -> None:
    with pytest.raises(PathNotFoundError) as caught:
        fm.load(tmp_path / "none.npy", backend="disk")
    assert str(tmp_path / "none.npy") in str(caught.value)
    assert "backend disk" in str(caught.value)


class Counting(StorageBackend):
    """A custom backend whose state tells that all use one instance."""

    _backend_type = "counting"

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def load(self, path: Any) -> Any:
        return self.values[path]

    def save(self, data: Any, path: Any) -> None:
        self.values[path] = data

    def is_file(self, path: Any) -> bool:
        return path in self.values

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return sorted(self.values)


def test_a_custom_backend_has_one_instance_on_the_node_and_raises_its_own_errors(
    fm: FileManager,
) -> None:
    ray.cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])

    @ray.remote
    def use(fm: FileManager, name: str) -> tuple[bool, bool]:
        fm.save(name, name, backend="counting")
        return "counting" in fm.registry, "counting" in BackendRegistry()

    assert ray.get([use.remote(fm, name) for name in "ab"]) == [(True, True)] * 2
    assert fm.load_batch(["b", "a"], backend="counting") == ["b", "a"]
    with pytest.raises(StorageResolutionError, match="KeyError") as caught:
        fm.load("none", backend="counting")
    assert isinstance(caught.value.__cause__, KeyError)
