"""`ClusterPipeline`: many chunks in one request, and no update that is lost."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
import ray
import xarray as xr
import zarr
from zarr.codecs import BytesCodec
from zarr.storage import MemoryStore

from polystore.exceptions import VersionConflictError
from polystore_ray import RayBackendRegistry
from polystore_ray.deadline import Deadline
from polystore_ray.errors import CallTimeoutError
from polystore_ray.interop.stored_bytes import StoredBytes, Write
from polystore_ray.zarr import ClusterPipeline, ClusterStore, intermediates

PATH = "polystore_ray.zarr.ClusterPipeline"
ZARRS = [
    f"zarr.core.codec_pipeline.{name}"
    for name in ("BatchedCodecPipeline", "FusedCodecPipeline")
    if hasattr(zarr.core.codec_pipeline, name)
]
VALUES = np.arange(60 * 50, dtype=np.uint16).reshape(60, 50)
KINDS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (8, 7)},
    "uncompressed": {"chunks": (8, 7), "compressors": None},
    "the other byte order": {
        "chunks": (8, 7),
        "compressors": None,
        "serializer": BytesCodec(endian="big"),
    },
    "shards": {"chunks": (4, 5), "shards": (16, 10)},
    "format 2": {"chunks": (8, 7), "zarr_format": 2},
    "all chunks are written": {"chunks": (8, 7), "config": {"write_empty_chunks": True}},
}


@pytest.fixture(autouse=True)
def _configured() -> Iterator[None]:
    with zarr.config.set({"codec_pipeline.path": PATH}):
        yield


class Counting(ClusterStore):
    """Counts requests."""

    loads: ClassVar[list[int]] = []
    saves: ClassVar[list[int]] = []

    def load_chunks(self, keys: Sequence[str]) -> Any:
        self.loads.append(len(keys))
        return super().load_chunks(keys)

    def save_chunks(self, keys: Sequence[str], values: Any, versions: Any) -> None:
        self.saves.append(len(keys))
        super().save_chunks(keys, values, versions)


@pytest.fixture
def store(registry: RayBackendRegistry, place: str) -> Counting:
    Counting.loads, Counting.saves = [], []
    return Counting(f"{place}/1.zarr", registry)


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_is_what_numpy_says(store: Counting, kind: str) -> None:
    array: Any = zarr.create_array(store, shape=VALUES.shape, dtype="u2", **KINDS[kind])
    assert isinstance(array.async_array.codec_pipeline, ClusterPipeline)
    expected = np.zeros_like(VALUES)
    for part in (
        np.s_[3:40, 5:50],
        np.s_[:, 7],
        np.s_[59, :],
        np.s_[10:20, 10:20],
        np.s_[::3, 2:4],
        ...,
        np.s_[0:16, 0:10],
    ):
        array[part] = expected[part] = VALUES[part] + 1
        assert (array[...] == expected).all()
        array[part] = expected[part] = 0
        assert (array[...] == expected).all()
    rows, columns = [1, 30, 59], [0, 49, 3]
    array.vindex[rows, columns] = expected[rows, columns] = [4, 5, 6]
    array.oindex[rows, columns] = expected[np.ix_(rows, columns)] = 9
    assert (array[...] == expected).all()
    assert (array.oindex[rows, columns] == 9).all()
    assert (pickle.loads(pickle.dumps(array))[...] == expected).all()


def test_chunks_travel_together(store: Counting) -> None:
    array: Any = zarr.create_array(store, shape=VALUES.shape, dtype="u2", chunks=(10, 10))
    array[...] = VALUES
    assert (store.loads, store.saves) == ([], [30])
    array[5:55, 5:45] = 1
    assert (store.loads, store.saves) == ([18], [30, 30])
    array[...]
    assert store.loads == [18, 30]


def test_large_arrays_travel_in_parts(store: Counting) -> None:
    values = np.ones((80, 2**18), np.uint32)  # 80 MiB
    array: Any = zarr.create_array(
        store, shape=values.shape, dtype="u4", chunks=(1, 2**18), compressors=None
    )
    array[...] = values
    assert store.saves == [32, 32, 16]
    assert (array[...] == values).all()
    assert store.loads == [64, 16]


def test_an_emptied_chunk_is_deleted_where_it_was_written_whole(store: Counting) -> None:
    array: Any = zarr.create_array(store, shape=(8,), chunks=(4,), dtype="u1")
    array[:] = 1
    array[0:4] = 0
    assert not store.get_sync("c/0")
    array[4:8:2] = 0
    array[5:8:2] = 0
    assert store.get_sync("c/1")
    assert not array[:].any()


@pytest.mark.parametrize("pipeline", [PATH, *ZARRS])
@pytest.mark.parametrize("kind", KINDS)
def test_no_request_holds_up_the_event_loop_of_zarr(
    registry: RayBackendRegistry,
    place: str,
    kind: str,
    pipeline: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[str] = []

    def outside_the_loop(name: str) -> Any:
        request = getattr(StoredBytes, name)

        def call(self: StoredBytes, *arguments: Any) -> Any:
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            requests.append(name)
            return request(self, *arguments)

        return call

    for name in ("load_versions", "save", "save_versions", "delete"):
        monkeypatch.setattr(StoredBytes, name, outside_the_loop(name))
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        store = ClusterStore(f"{place}/1.zarr", registry)
        array: Any = zarr.create_array(store, shape=VALUES.shape, dtype="u2", **KINDS[kind])
        array[...] = VALUES
        array[5:55, 5:45] = 0
        expected = VALUES.copy()
        expected[5:55, 5:45] = 0
        assert (array[...] == expected).all()
        assert (array[10:30, 3] == expected[10:30, 3]).all()
    assert len(requests) > 3


def test_other_stores_have_a_pipeline_of_zarr() -> None:
    array: Any = zarr.create_array(MemoryStore(), data=VALUES, chunks=(8, 7))
    array[3:5] = 7
    assert (array[3:5] == 7).all()
    assert (array[5:] == VALUES[5:]).all()


@pytest.mark.parametrize("kind", ["chunks", "shards"])
def test_no_update_of_a_part_of_a_chunk_is_lost(store: ClusterStore, kind: str) -> None:
    zarr.create_array(store, shape=VALUES.shape, dtype="u2", **KINDS[kind])
    start = threading.Barrier(6)

    def write(number: int) -> None:
        array: Any = zarr.open_array(ClusterStore(store.path, store._registry), mode="r+")
        start.wait()
        for row in range(number, 60, 6):
            array[row] = VALUES[row]

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(6)))
    assert (np.asarray(zarr.open_array(store)[...]) == VALUES).all()


def _write_rows(path: str, registry: RayBackendRegistry, number: int, how: str) -> None:
    store = ClusterStore(path, registry)
    with zarr.config.set({"codec_pipeline.path": PATH}):
        array = zarr.open_array(store, path="values", mode="r+")
        for row in range(number, 60, 3):
            if how == "zarr":
                array[row] = VALUES[row]
            else:
                part = xr.Dataset({"values": (("y", "x"), VALUES[row : row + 1])})
                part.to_zarr(store, region={"y": slice(row, row + 1)}, consolidated=False)


class TestOnACluster:
    local = False

    @pytest.mark.parametrize("how", ["zarr", "xarray"])
    def test_tasks_lose_no_update_of_each_other(
        self, registry: RayBackendRegistry, place: str, how: str
    ) -> None:
        path = f"{place}/1.zarr"
        store = ClusterStore(path, registry)
        empty = xr.Dataset({"values": (("y", "x"), np.zeros_like(VALUES))})
        empty.to_zarr(store, encoding={"values": {"chunks": (20, 50)}}, consolidated=False)
        write: Any = ray.remote(num_cpus=0)(_write_rows)
        ray.get([write.remote(path, registry, number, how) for number in range(3)])
        written: Any = zarr.open_array(store, path="values")
        assert (written[...] == VALUES).all()


def test_an_update_that_never_succeeds_is_refused(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    array: Any = zarr.create_array(store, data=VALUES, chunks=(10, 10))
    load = Counting.load_chunks

    def overtaken(self: Counting, keys: Sequence[str]) -> Any:
        found = load(self, keys)
        self._values.save([Write(self._at(keys[0]))], [found[0][0].copy()])
        return found

    monkeypatch.setattr(Counting, "load_chunks", overtaken)
    monkeypatch.setattr(Counting, "deadline", property(lambda _: Deadline(0.2)))
    with pytest.raises(CallTimeoutError, match="fit the chunks") as error:
        array[5] = 1
    assert isinstance(error.value.__cause__, VersionConflictError)


def test_intermediates_are_deleted_at_the_end(registry: RayBackendRegistry) -> None:
    def fail() -> None:
        with intermediates(registry) as store:
            zarr.create_array(store, data=VALUES)
            with intermediates(registry) as other:
                assert other.path != store.path
                zarr.create_array(other, data=VALUES)
            assert [f"/{name}" for name in registry["memory"].list_dir("/")] == [store.path]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert registry["memory"].list_dir("/") == []
    with intermediates(registry):
        pass  # nothing was stored
