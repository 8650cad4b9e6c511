"""`polystore_ray.zarr.read`: the values that zarr reads, for every codec and region."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, GzipCodec

from polystore.exceptions import CorruptDataError, VFSTypeError
from polystore_ray import RayBackendRegistry
from polystore_ray.interop import chunk_reading
from polystore_ray.zarr import ClusterStore, read

VALUES = np.arange(7 * 11 * 5, dtype="i4").reshape(7, 11, 5)

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {"compressors": None},
    "big-endian": {"compressors": None, "serializer": BytesCodec(endian="big")},
    "compressed": {"compressors": GzipCodec()},
    "sharded": {"compressors": None, "shards": (6, 8, 4)},
    "format 2": {"compressors": None, "zarr_format": 2},
    "format 2, compressed": {"zarr_format": 2},
    "format 2, order F": {"compressors": None, "zarr_format": 2, "order": "F"},
}


@pytest.fixture(scope="module")
def store() -> ClusterStore:
    return ClusterStore("/arrays", RayBackendRegistry("chunks", local=True))


@pytest.fixture(scope="module", params=LAYOUTS)
def array(request: pytest.FixtureRequest, store: ClusterStore) -> zarr.Array[Any]:
    name = request.param.replace(" ", "")
    options = {"chunks": (3, 4, 2), **LAYOUTS[request.param]}
    return zarr.create_array(store, name=name, data=VALUES, **options)


def parts(side: int) -> st.SearchStrategy[Any]:
    return st.integers(-side, side - 1) | st.slices(side)


@given(data=st.data())
@settings(max_examples=40)
def test_every_region_is_that_of_numpy(array: zarr.Array[Any], data: st.DataObject) -> None:
    region = data.draw(
        st.tuples(*map(parts, VALUES.shape)) | st.tuples(parts(7), st.just(...)) | st.just(...)
    )
    expected = VALUES[region]
    found = read(array, region)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    out = np.zeros(expected.shape, expected.dtype)
    assert read(array, region, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_plain_chunks_are_read_in_one_request(
    store: ClusterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = zarr.create_array(store, name="one", data=VALUES, chunks=(2, 2, 2), compressors=None)
    loads = []
    load = store.load_chunks

    def counted(keys: Any) -> Any:
        loads.append(len(keys))
        return load(keys)

    monkeypatch.setattr(array.store, "load_chunks", counted)
    np.testing.assert_array_equal(read(array), VALUES)
    assert loads == [4 * 6 * 3]
    monkeypatch.setattr(chunk_reading, "_REQUEST_BYTES", 10 * 2 * 2 * 2 * 4)
    loads.clear()
    np.testing.assert_array_equal(read(array, slice(0, 2)), VALUES[:2])
    assert loads == [10, 8]


def test_missing_chunks_are_the_fill_value(store: ClusterStore) -> None:
    array = zarr.create_array(
        store,
        name="hole",
        shape=(4, 4),
        chunks=(2, 2),
        dtype="f4",
        fill_value=np.nan,
        compressors=None,
    )
    array[:2, :2] = 1
    np.testing.assert_array_equal(read(array), array[:])


def test_without_a_fill_value_zarr_decides_what_a_missing_chunk_holds(store: ClusterStore) -> None:
    options: Any = {"zarr_format": 2, "fill_value": None, "compressors": None}
    array = zarr.create_array(store, name="none", shape=(4,), chunks=(2,), dtype="i4", **options)
    array[:2] = 1
    assert read(array)[:2].tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_arrays_without_axes_or_values(store: ClusterStore, shape: tuple[int, ...]) -> None:
    data = np.ones(shape, "u2")
    array = zarr.create_array(
        store, name=f"empty{len(shape)}{sum(shape)}", data=data, compressors=None
    )
    np.testing.assert_array_equal(read(array), data)


def test_a_chunk_of_another_size_is_damage(store: ClusterStore) -> None:
    array = zarr.create_array(store, name="cut", data=VALUES, chunks=VALUES.shape, compressors=None)
    memory = store._registry["memory"]
    memory.save(b"short", "/arrays/cut/c/0/0/0", overwrite=True)
    with pytest.raises(CorruptDataError, match="cut/c/0/0/0"):
        read(array)


def test_what_does_not_fit_is_said(store: ClusterStore) -> None:
    array = zarr.create_array(store, name="fit", data=VALUES, compressors=None)
    for out in (np.zeros((7, 11, 5), "i8"), np.zeros((7, 11), "i4")):
        with pytest.raises(VFSTypeError, match="out has the shape"):
            read(array, out=out)
    with pytest.raises(VFSTypeError, match="does not fit"):
        read(array, (0, 0, 0, 0))
    elsewhere = zarr.create_array(zarr.storage.MemoryStore(), data=VALUES)
    with pytest.raises(VFSTypeError, match="MemoryStore"):
        read(elsewhere)
