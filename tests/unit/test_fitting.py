"""What fits into an array by a region save or an append: the same rule in every backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import DiskBackend, MemoryBackend, UnsupportedFormatError, ZarrBackend
from polystore.fitting import fitted
from polystore_ray import RayBackendRegistry

MASKED = np.ma.masked_array([1, 2, 3], mask=[False, True, False])
UNFIT: list[tuple[Any, Any]] = [
    ("uint8", np.int64(300)),
    ("uint8", np.array([-1, 0, 0])),
    ("uint8", [300, 0, 0]),
    ("uint8", np.array([300, 0, 0], object)),
    ("uint8", 3.7),
    ("uint8", np.nan),
    ("uint8", 10**30),
    ("uint8", np.datetime64("2020")),
    ("int64", np.uint64(2**64 - 1)),
    ("int8", MASKED),
    ("int8", [MASKED]),
    ("int8", np.ma.masked),
    ("bool", 2),
    ("float32", 1e300),
    ("float16", 70_000),
    ("float64", 1 + 2j),
    ("U3", "abcd"),
    ("S2", b"abc"),
    ("M8[s]", np.datetime64("2020-01-01T00:00:00.5")),
    ("M8[ns]", np.datetime64("3000", "Y")),
    ("m8[s]", np.timedelta64(5, "ms")),
    ([("a", "u1")], np.array((300,), [("a", "i4")])),
]
FIT: list[tuple[Any, Any]] = [
    ("uint8", np.int64(255)),
    ("uint8", 2.0),
    ("bool", np.int64(1)),
    ("float32", 0.1),
    ("float32", np.inf),
    ("float64", 1 + 0j),
    ("U3", "abc"),
    ("M8[s]", np.datetime64("2020", "D")),
    ("M8[s]", "2020-01-01"),
    ("M8[s]", np.datetime64("NaT", "ns")),
    ([("a", "u1"), ("b", "f4")], (1, 2.5)),
    ("O", {"any": "thing"}),
]


@pytest.mark.parametrize(("dtype", "value"), UNFIT, ids=str)
def test_a_value_that_would_become_another_is_refused(dtype: Any, value: Any) -> None:
    with pytest.raises((ValueError, OverflowError)):
        fitted(value, (3,), np.dtype(dtype))


@pytest.mark.parametrize(("dtype", "value"), FIT, ids=str)
def test_a_value_that_stays_the_same_is_filled_in(dtype: Any, value: Any) -> None:
    expected = np.empty(3, dtype)
    expected[...] = value.real if isinstance(value, complex) else value
    np.testing.assert_array_equal(fitted(value, (3,), np.dtype(dtype)), expected)


BACKENDS: dict[str, Callable[[Path], tuple[Any, str]]] = {
    "memory": lambda _: (MemoryBackend(), "/a"),
    "disk": lambda folder: (DiskBackend(folder), "/a.npy"),
    "zarr": lambda folder: (ZarrBackend(folder), "/a"),
    "memory://": lambda folder: (ZarrBackend(f"memory://{folder}"), "/a"),
    "cluster memory": lambda _: (RayBackendRegistry("fitting", local=True)["memory"], "/a"),
}


@pytest.fixture(params=BACKENDS)
def place(request: Any, tmp_path: Path) -> tuple[Any, str]:
    return BACKENDS[request.param](tmp_path)


@pytest.mark.parametrize("value", [np.int64(300), [-1, 0, 0], 3.7, MASKED], ids=str)
def test_every_backend_refuses_it_in_a_region_and_keeps_the_array(
    place: tuple[Any, str], value: Any
) -> None:
    backend, path = place
    backend.save(np.ones((2, 3), np.uint8), path, overwrite=True)
    with pytest.raises(UnsupportedFormatError, match="does not fit the region") as caught:
        backend.save(value, path, region=0)
    assert caught.value.path == path
    assert (value is MASKED) == (".filled(" in str(caught.value))
    assert (backend.load(path) == 1).all()


@pytest.mark.parametrize("value", [[[300, 0, 0]], np.array([[-1, 0, 0]]), MASKED[None]], ids=str)
def test_an_append_refuses_it_too(tmp_path: Path, value: Any) -> None:
    zarr = ZarrBackend(tmp_path)
    zarr.save(np.ones((2, 3), np.uint8), "/a")
    with pytest.raises(UnsupportedFormatError):
        zarr.append(value, "/a")
    assert zarr.load("/a").tolist() == [[1] * 3] * 2


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "a.json", "a.bin", "a.txt"])
def test_a_masked_array_is_in_no_file(tmp_path: Path, name: str) -> None:
    value: Any = {"a": MASKED} if name == "a.npz" else [list(MASKED)] if "csv" in name else MASKED
    with pytest.raises(UnsupportedFormatError):
        DiskBackend(tmp_path).save(value, name)
    with pytest.raises(UnsupportedFormatError, match=r"\.filled"):
        ZarrBackend(tmp_path).save(MASKED, "/a")


def test_a_masked_array_in_memory_takes_masked_values() -> None:
    memory = MemoryBackend()
    memory.save(MASKED, "/a")
    memory.save(np.ma.masked_array([9], mask=[True]), "/a", region=slice(0, 1))
    memory.save(5, "/a", region=slice(1, 2))
    assert memory.load("/a").tolist() == [None, 5, 3]
