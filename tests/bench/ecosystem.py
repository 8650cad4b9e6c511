"""Compare the zarr store on cluster memory with zarr's on files: chunks, and a computation."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import product
from typing import Any

import dask
import dask.array as da
import numpy as np
import ray
import xarray as xr
import zarr
from measuring import Table, folders, medians, start_ray
from zarr.abc.store import Store
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from polystore_ray import RayBackendRegistry
from polystore_ray.zarr import ClusterStore

KIB, MIB = 2**10, 2**20
SIZES = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB]
TOTAL = 64 * MIB  # in one round
MOST = 512  # chunks in one round
ROUNDS = 5
OF_THE_COMPUTATION = 3
AT_ONCE = (10, 128)  # chunks that zarr asks for, by default and by its configuration
IMAGE = (2048, 2048)  # of float32: 16 MiB, one chunk
IMAGES = 128  # 2 GiB
TABLE = Table("ecosystem", f"{ROUNDS}, of the computation {OF_THE_COMPUTATION}")


def name_of(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


async def write(store: Store, keys: list[str], value: Buffer) -> None:
    await asyncio.gather(*(store.set(key, value) for key in keys))


async def read(store: Store, keys: list[str]) -> None:
    prototype = default_buffer_prototype()
    values = await asyncio.gather(*(store.get(key, prototype) for key in keys))
    assert all(value is not None for value in values)


def chunks(ours: Store, files: Store, size: int) -> None:
    """Measure many chunks that are written, and read, at once."""
    value = cpu.Buffer.from_bytes(np.random.default_rng(0).bytes(size))
    count = min(MOST, max(16, TOTAL // size))
    keys = [f"c/{i}" for i in range(count)]

    def all_of(
        do: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> Callable[[int], Any]:
        return lambda _: sync(do(*arguments))

    found = medians(
        {
            "write": all_of(write, ours, keys, value),
            "write a file": all_of(write, files, keys, value),
            "read": all_of(read, ours, keys),
            "read a file": all_of(read, files, keys),
        },
        rounds=ROUNDS,
    )
    each = {work: seconds / count for work, seconds in found.items()}
    what = f"chunks of {name_of(size)}, {count} at once, each"
    TABLE.add(f"read {what}", each["read"], "LocalStore", each["read a file"], "< 0.33")
    TABLE.add(f"write {what}", each["write"], "LocalStore", each["write a file"], "< 1")
    for store in (ours, files):
        sync(store.clear())


def whole(array: zarr.Array[Any], _: int) -> Any:
    return array[:]


def array(ours: Store, files: Store, size: int, at_once: int) -> None:
    """Measure an array that zarr reads and writes, so many chunks at once."""
    count = min(MOST, max(16, TOTAL // size))
    values = np.random.default_rng(0).integers(0, 255, count * size, "u1")

    def made(store: Store) -> zarr.Array[Any]:
        return zarr.create_array(
            store, shape=values.shape, chunks=(size,), dtype="u1", compressors=None
        )

    def fill(array: zarr.Array[Any], _: int) -> None:
        array[:] = values

    works: dict[str, Callable[[int], Any]] = {}
    for whose, store in (("ours", ours), ("files", files)):
        made_there = made(store)
        works[f"write {whose}"] = partial(fill, made_there)
        works[f"read {whose}"] = partial(whole, made_there)
    with zarr.config.set({"async.concurrency": at_once}):
        found = medians(works, rounds=ROUNDS)
    for work in ("read", "write"):
        what = f"{work} an array of {count} chunks of {name_of(size)}, {at_once} at once"
        TABLE.add(what, found[f"{work} ours"], "LocalStore", found[f"{work} files"])
    for store in (ours, files):
        sync(store.clear())


def image(block_id: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return an image that takes no time to make."""
    return np.full((1, *IMAGE), block_id[0], "f4")


def normalise(store: Store) -> None:
    """Keep corrected images, and read them twice: for their mean, and the deviation from it."""
    chunks = ((1,) * IMAGES, *((size,) for size in IMAGE))
    raw = da.map_blocks(image, chunks=chunks, dtype="f4")
    corrected = xr.Dataset({"image": (("site", "y", "x"), raw * 2 + 1)})
    plain = {"image": {"compressors": None}}
    corrected.to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=plain)
    kept = xr.open_zarr(store, consolidated=False)["image"]
    mean = float(kept.mean())
    deviation = float(abs(kept - mean).mean())
    assert np.allclose((mean, deviation), (IMAGES, IMAGES / 2), rtol=1e-3), (mean, deviation)
    sync(store.clear())


def computation(ours: Store, files: Store) -> None:
    """Measure a computation of xarray and Dask whose intermediate result is 2 GiB."""
    with dask.config.set(scheduler="threads", num_workers=2):
        found = medians(
            {"ours": lambda _: normalise(ours), "files": lambda _: normalise(files)},
            rounds=OF_THE_COMPUTATION,
        )
    work = "xarray and Dask: write 2 GiB, read them twice"
    TABLE.add(work, found["ours"], "the same on local zarr files", found["files"], "< 1")


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or SIZES
    start_ray(6 * 2**30)
    registry = RayBackendRegistry("bench")
    try:
        with folders() as (shared, disk):
            ours, files = ClusterStore("/bench.zarr", registry), LocalStore(shared)
            for size in sizes:
                chunks(ours, files, size)
            if sizes is SIZES:
                for size, at_once in product(SIZES[1::2], AT_ONCE):
                    array(ours, files, size, at_once)
                computation(ours, LocalStore(disk))
                TABLE.write()
    finally:
        registry.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
