"""Compare programs that keep their arrays in the cluster memory with the same on local files."""

from __future__ import annotations

import asyncio
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any

import anndata
import cubed
import cubed.array_api as xp
import cubed.random
import numpy as np
import pandas as pd
import ray
import tensorstore
import zarr
from arrays import photographs
from cubed.runtime.create import create_executor
from measuring import Table, folders, medians, start_ray
from ome_zarr.writer import write_image
from zarr.abc.store import Store
from zarr.storage import LocalStore

from polystore import ZarrBackend
from polystore.zarr.array.pipelines import pipeline_in_use
from polystore_ray import RayBackendRegistry
from polystore_ray.zarr import ClusterStore, intermediates

ROUNDS = 7
OF_THE_RECHUNKING = 3
MIB = 2**20
RECHUNKED = 2048  # MiB
ON_DISK = "LocalStore on the local disk"
TABLE = Table("programs", f"{ROUNDS}, of the rechunking {OF_THE_RECHUNKING}")


def cells() -> Any:
    """Return annotated data: 2000 cells with 500 genes, two layouts, and what is known of both."""
    pd.options.future.infer_string = False  # anndata 0.12 does not write the new kind of strings
    random = np.random.default_rng(0)
    about = pd.DataFrame(
        {"kind": pd.Categorical(random.choice(list("abcd"), 2000)), "n": np.arange(2000)},
        index=[f"cell {i}" for i in range(2000)],
    )
    genes = pd.DataFrame({"length": np.arange(500)}, index=[f"gene {i}" for i in range(500)])
    layouts = {"pca": random.random((2000, 50)), "umap": random.random((2000, 2))}
    return anndata.AnnData(random.random((2000, 500), "f4"), about, genes, obsm=layouts)


def write_cells(data: Any, store: Store, _: int) -> None:
    data.write_zarr(store)


def read_cells(store: Store, _: int) -> None:
    anndata.read_zarr(store)


def write_pyramid(image: Any, store: Store, _: int) -> None:
    write_image(image, zarr.open_group(store, mode="w"), axes="cyx")


def stores(stores: Mapping[str, Store]) -> None:
    """Measure what writes many small keys: the metadata of groups, tables and pyramids."""
    data, image = cells(), photographs()[:3]
    works: dict[str, Callable[[Store, int], None]] = {
        "AnnData: write 2000 cells": partial(write_cells, data),
        "AnnData: read 2000 cells": read_cells,
        "OME-Zarr: write a pyramid of 3 channels": partial(write_pyramid, image),
    }
    for work, call in works.items():
        found = medians(
            {whose: partial(call, store) for whose, store in stores.items()}, rounds=ROUNDS
        )
        TABLE.add(work, found["ours"], ON_DISK, found["files"], "<= 1.5")
    for store in stores.values():
        asyncio.run(store.clear())


def rechunk(spec: Any) -> None:
    """Rechunk random numbers from rows to columns, and reduce them, through the intermediates."""
    side = math.isqrt(RECHUNKED * MIB // 8) // 16 * 16
    rows = cubed.random.random((side, side), chunks=(side // 16, side), spec=spec)
    columns = rows.rechunk((side, side // 16))
    mean = float(xp.mean(columns).compute(optimize_graph=False))
    assert abs(mean - 0.5) < 0.01, mean


def rechunking(registry: RayBackendRegistry, disk: str) -> None:
    """Measure intermediates in the memory, and in a work directory.

    They are compressed: cubed 0.27 does not tell zarr 3 about its ``zarr_compressor``.
    """
    numbers = count()
    options = {"allowed_mem": max(RECHUNKED * MIB // 2, 100 * MIB)}

    def in_memory(executor: Any, _: int) -> None:
        with intermediates(registry) as store:
            rechunk(cubed.Spec(intermediate_store=store, executor=executor, **options))

    def on_disk(executor: Any, _: int) -> None:
        folder = f"{disk}/rechunking-{next(numbers)}"
        rechunk(cubed.Spec(folder, executor=executor, **options))
        shutil.rmtree(folder)

    for name in ("threads", "ray"):
        executor = create_executor(name)
        found = medians(
            {"ours": partial(in_memory, executor), "files": partial(on_disk, executor)},
            rounds=OF_THE_RECHUNKING,
        )
        work = f"cubed on {name}: rechunk {RECHUNKED} MiB"
        TABLE.add(work, found["ours"], "work directory on the local disk", found["files"], "<= 0.6")


def compressed(shared: str) -> None:
    """Measure the zarr backend beside tensorstore: the same chunks and codec."""
    values = photographs()
    backend, theirs = ZarrBackend(shared), f"{shared}/theirs"
    chunks = (2, *values.shape[1:])
    file = {"driver": "zarr3", "kvstore": {"driver": "file", "path": theirs}}
    zstd = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
    metadata = {
        "shape": values.shape,
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, zstd],
    }
    made: Any = {**file, "metadata": metadata, "create": True, "delete_existing": True}
    found = medians(
        {
            "save": lambda _: backend.save(values, "/ours", overwrite=True, chunks=chunks),
            "their save": lambda _: tensorstore.open(made).result().write(values).result(),
            "load": lambda _: backend.load("/ours"),
            "their load": lambda _: tensorstore.open(file).result().read().result(),
        },
        rounds=ROUNDS,
    )
    ours = zarr.open_array(f"{shared}/ours")
    assert ours.chunks == zarr.open_array(theirs).chunks
    assert ours.compressors == zarr.open_array(theirs).compressors
    for work in ("save", "load"):
        what = f"zarr backend ({pipeline_in_use()}): {work} photographs"
        TABLE.add(what, found[work], "tensorstore", found[f"their {work}"], "<= 1.1")


def main() -> None:
    global RECHUNKED
    is_whole = len(sys.argv) == 1
    RECHUNKED = RECHUNKED if is_whole else int(sys.argv[1])
    start_ray(max(2**30, 3 * RECHUNKED * MIB))
    registry = RayBackendRegistry("programs")
    try:
        with folders() as (shared, disk):
            stores(
                {"ours": ClusterStore("/programs", registry), "files": LocalStore(f"{disk}/files")}
            )
            compressed(shared)
            rechunking(registry, disk)
            if is_whole:
                TABLE.write()
    finally:
        registry.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
