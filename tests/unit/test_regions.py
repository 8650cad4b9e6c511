"""Contract line 17: parts of arrays, on every backend of one process."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from polystore import (
    DiskBackend,
    MemoryBackend,
    PathNotFoundError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
)
from polystore.region import as_index, check_region, forward

CUBE = np.arange(3 * 5 * 7, dtype=np.uint16).reshape(3, 5, 7)

REGIONS: list[Any] = [
    0,
    -1,
    np.int64(2),
    np.array(1),
    (1, 2, 3),
    (slice(None), 2),
    (..., 3),
    (0, ..., -1),
    ...,
    (),
    slice(1, 10**40),
    slice(np.uint8(0), np.int16(2)),
    (slice(None, None, -1), slice(4, 1, -2)),
    (slice(0, 3), slice(9, 9), 0),
    (slice(2, 0), slice(0, 5, -1)),
    slice(None, None, 2),
]
NO_REGIONS: list[Any] = [
    3,
    10**40,
    True,
    np.True_,
    1.0,
    "a",
    [0, 1],
    (None,),
    (..., ...),
    (0, 0, 0, 0),
    slice("a"),
    slice(0, 3, 0),
    slice(0.5),
    np.array([1]),
    np.array([1, 2]),
]


def stored(name: str) -> Callable[[Path], tuple[Any, str]]:
    return lambda folder: (DiskBackend(folder), name)


PLACES: dict[str, Callable[[Path], tuple[Any, str]]] = {
    "memory": lambda _: (MemoryBackend(), "/a"),
    "npy": stored("a.npy"),
    "tif": stored("a.tif"),
    "zarr": lambda folder: (ZarrBackend(folder), "a.npy"),
}


@pytest.fixture(params=PLACES)
def place(request: Any, tmp_path: Path) -> tuple[Any, str]:
    backend, path = PLACES[request.param](tmp_path)
    backend.save(CUBE, path)
    return backend, path


@pytest.mark.parametrize("region", REGIONS, ids=repr)
def test_a_region_is_what_basic_indexing_selects(place: tuple[Any, str], region: Any) -> None:
    backend, path = place
    part = backend.load(path, region=region)
    expected = CUBE[as_index(region)]
    assert part.dtype == CUBE.dtype
    assert part.shape == expected.shape
    assert np.array_equal(part, expected)


@pytest.mark.parametrize("region", NO_REGIONS, ids=repr)
def test_what_selects_nothing_is_refused_and_located(place: tuple[Any, str], region: Any) -> None:
    backend, path = place
    uses: tuple[Callable[[], Any], ...] = (
        lambda: backend.load(path, region=region),
        lambda: backend.load_batch([path], region=region),
        lambda: backend.save(0, path, region=region),
    )
    for use in uses:
        with pytest.raises(VFSTypeError) as caught:
            use()
        assert caught.value.path == path
        assert caught.value.backend == backend._backend_type
    assert np.array_equal(backend.load(path), CUBE)


@pytest.mark.parametrize(
    "data", [np.zeros((9, 9)), "text", object(), 10**9, [1, "x"]], ids=lambda v: type(v).__name__
)
def test_data_that_does_not_fit_changes_nothing(place: tuple[Any, str], data: Any) -> None:
    backend, path = place
    with pytest.raises(UnsupportedFormatError, match="does not fit the region") as caught:
        backend.save(data, path, region=(0, slice(0, 2)))
    assert (caught.value.path, caught.value.backend) == (path, backend._backend_type)
    assert np.array_equal(backend.load(path), CUBE)


def test_a_region_is_saved_without_overwrite_and_keeps_the_rest(place: tuple[Any, str]) -> None:
    backend, path = place
    held = backend.load(path)
    backend.save(np.array([[7, 8]]), path, region=(1, slice(0, 2), slice(None, None, 6)))
    backend.save([1, 2], path, region=(2, slice(1, None, -1), 0))
    expected = CUBE.copy()
    expected[1, 0:2, ::6] = [[7, 8]]
    expected[2, 1::-1, 0] = [1, 2]
    assert np.array_equal(backend.load(path), expected)
    assert np.array_equal(held, CUBE)


def test_a_region_of_nothing_and_of_no_array(place: tuple[Any, str], tmp_path: Path) -> None:
    backend, _ = place
    uses: tuple[Callable[[], Any], ...] = (
        lambda: backend.load("none.npy", region=0),
        lambda: backend.save(1, "none.npy", region=0),
    )
    for use in uses:
        with pytest.raises(PathNotFoundError, match=r"none\.npy"):
            use()
    backend.save({"a": 1}, "b.json")
    uses = (
        lambda: backend.load("b.json", region=0),
        lambda: backend.save(1, "b.json", region=0),
    )
    for use in uses:
        with pytest.raises(UnsupportedOperationError, match=r"a dict: 'b\.json'"):
            use()


def test_a_format_without_regions_reads_the_whole_and_slices_it(tmp_path: Path) -> None:
    disk = DiskBackend(tmp_path)
    disk.save(CUBE[0], "a.png")
    assert np.array_equal(disk.load("a.png", region=(slice(1, 3), -1)), CUBE[0, 1:3, -1])


def write_tiff(path: Path, image: Any) -> None:
    tifffile.imwrite(path, image, tile=(64, 64), compression="zlib")


@pytest.mark.parametrize(("name", "write"), [("a.npy", np.save), ("a.tif", write_tiff)])
def test_no_more_is_read_than_the_region_needs(tmp_path: Path, name: str, write: Any) -> None:
    image = np.random.default_rng(0).integers(0, 9, (4096, 4096), dtype=np.uint8)
    write(tmp_path / name, image)
    disk = DiskBackend(tmp_path)
    region = (slice(1000, 1010), slice(2000, 2020))
    disk.load(name, region=region)  # what is imported and cached once is not counted
    tracemalloc.start()
    try:
        part = disk.load(name, region=region)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(part, image[region])
    assert peak < image.nbytes / 8


def test_memory_gives_a_view_of_a_region() -> None:
    memory = MemoryBackend()
    memory.save(CUBE, "/a")
    whole, part = memory.load("/a"), memory.load("/a", region=(1, slice(2, 4)))
    assert np.shares_memory(whole, part)
    assert not part.flags.writeable


def test_a_region_without_negative_steps_and_a_turn_select_the_same() -> None:
    for region in REGIONS:
        index, turn = forward(CUBE.shape, region)
        assert all(isinstance(part, int) or part.step in (None, 1, 2) for part in index)
        part = CUBE[as_index(region)]
        assert check_region(CUBE.shape, region) == part.shape
        assert np.array_equal(CUBE[index][turn], part)
