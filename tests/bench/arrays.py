"""Compare whole arrays, regions and small operations of zarr on polystore with zarr on files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import ray
import skimage.data
import zarr
from measuring import Table, folders, medians, start_ray
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import LocalStore

from polystore import ZarrBackend
from polystore.zarr.array.pipelines import Pipeline, pipeline_in_use
from polystore_ray import RayBackendRegistry
from polystore_ray.zarr import ClusterStore, read

ROUNDS = 7
LARGE = (256, 512, 1024)  # of uint16: 256 MiB, in chunks of 1 MiB
OURS = "polystore_ray.zarr.ClusterPipeline"
FASTEST = {
    "fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
}[pipeline_in_use()]
TASKS = 16
TABLE = Table("arrays", ROUNDS)


@contextmanager
def configured(path: str) -> Iterator[None]:
    with zarr.config.set({"codec_pipeline.path": path}):
        yield


def put(array: Any, values: Any, _: int) -> None:
    array[...] = values


def get(array: Any, _: int) -> None:
    array[...]


def whole(registry: RayBackendRegistry, shared: str) -> None:
    """Measure an array of 256 MiB without compression."""
    values = np.random.default_rng(0).integers(0, 2**16, LARGE, "u2")
    options: Any = {"shape": LARGE, "dtype": "u2", "chunks": (1, *LARGE[1:]), "compressors": None}
    with configured(OURS):
        ours = zarr.create_array(ClusterStore("/whole", registry), **options)
    with configured(FASTEST):
        files = zarr.create_array(LocalStore(f"{shared}/whole"), **options)
    found = medians(
        {
            "write": partial(put, ours, values),
            "write files": partial(put, files, values),
            "read": partial(get, ours),
            "read files": partial(get, files),
        },
        rounds=ROUNDS,
    )
    fused = pipeline_in_use() == "fused"
    beside = "LocalStore on shared memory, the fastest of zarr"
    goal = "<= 0.7" if fused else "<= 0.9"
    TABLE.add("read 256 MiB", found["read"], beside, found["read files"], goal)
    goal = "<= 1.5" if fused else "<= 1"
    TABLE.add("write 256 MiB", found["write"], beside, found["write files"], goal)
    out, copy = np.empty_like(values), np.empty_like(values)
    found = medians(
        {"read": lambda _: read(ours, out=out), "copy": lambda _: np.copyto(copy, values)},
        rounds=ROUNDS,
    )
    TABLE.add("read(out=) 256 MiB", found["read"], "np.copyto", found["copy"], "<= 2.5")
    registry["memory"].delete_all("/whole")
    shutil.rmtree(f"{shared}/whole")


def photographs() -> np.ndarray[Any, Any]:
    """Return 64 MiB of photographs with noise, as a camera with 12 bits takes them."""
    image = np.asarray(skimage.data.camera(), np.uint16) * 16
    noise = np.random.default_rng(0).poisson(8, (128, *image.shape)).astype(np.uint16)
    return image + noise


def compressed(shared: str, pipeline: Pipeline) -> None:
    """Measure the backend with photographs, compressed as zarr does by default."""
    values = photographs()
    backend, made = ZarrBackend(shared, pipeline=pipeline), f"{shared}/bare"
    chunks = (2, *values.shape[1:])

    def bare_save(_: int) -> None:
        shutil.rmtree(made, ignore_errors=True)
        zarr.create_array(made, data=values, chunks=chunks)

    found = medians(
        {
            "save": lambda _: backend.save(values, "/ours", overwrite=True, chunks=chunks),
            "bare save": bare_save,
            "load": lambda _: backend.load("/ours"),
            "bare load": lambda _: zarr.open_array(made)[...],
        },
        rounds=ROUNDS,
    )
    for work, goal in (("save", "<= 0.5"), ("load", "<= 0.65")):
        what = f"zarr backend ({pipeline}): {work} photographs"
        TABLE.add(what, found[work], "zarr, default pipeline", found[f"bare {work}"], goal)


def save_region(registry: RayBackendRegistry, number: int, values: Any) -> None:
    rows = len(values) // TASKS
    part = slice(number * rows, (number + 1) * rows)
    registry["zarr"].save(values[part], "/regions", region=(part,))


def regions(shared: str) -> None:
    """Measure regions of one array that many tasks save, and one process."""
    registry = RayBackendRegistry("regions", backends={"zarr": {"root": shared}})
    values = photographs()
    backend = ZarrBackend(shared)
    backend.save(np.zeros_like(values), "/regions", chunks=(2, *values.shape[1:]))
    task: Any = ray.remote(save_region)
    reference = ray.put(values)
    found = medians(
        {
            "tasks": lambda _: ray.get(
                [task.remote(registry, number, reference) for number in range(TASKS)]
            ),
            "alone": lambda _: backend.save(values, "/regions", region=...),
        },
        rounds=ROUNDS,
    )
    work = f"{TASKS} tasks: regions of one array"
    TABLE.add(work, found["tasks"], "one process", found["alone"], "<= 0.8")
    registry.shutdown()


def small(registry: RayBackendRegistry, disk: str) -> None:
    """Measure what costs round trips and not bytes."""
    stores: dict[str, Store] = {
        "ours": ClusterStore("/small", registry),
        "files": LocalStore(f"{disk}/small"),
    }
    row, arrays = np.ones((1, 64), "u2"), {}  # zarr writes no chunk of zeros
    works: dict[str, Callable[[Store, Any, int], Any]] = {
        "open a group": lambda store, _, i: zarr.open_group(store, path="group", mode="r"),
        "open an array": lambda store, _, i: zarr.open_array(store, path="array", mode="r"),
        "open an array, the format named": lambda store, _, i: zarr.open_array(
            store, path="array", mode="r", zarr_format=3
        ),
        "create an array": lambda store, _, i: zarr.create_array(
            store, name=f"new{i}", shape=(64, 64), dtype="u2"
        ),
        "append a row": lambda _, array, i: array.append(row),
    }
    with configured(OURS):
        for whose, store in stores.items():
            zarr.create_group(store, path="group")
            zarr.create_array(store, name="array", shape=(64, 64), dtype="u2")
            arrays[whose] = zarr.create_array(
                store, name="rows", shape=(0, 64), chunks=(64, 64), dtype="u2"
            )
        for work, call in works.items():
            calls = {whose: partial(call, store, arrays[whose]) for whose, store in stores.items()}
            found = medians(calls, repeat=20, rounds=ROUNDS)
            goal = "<= 3" if "append" in work else "<= 2"
            beside = "LocalStore on the local disk"
            TABLE.add(work, found["ours"], beside, found["files"], goal)
        sparse = {
            name: zarr.create_array(
                stores["ours"], name=name, shape=(160, 64), chunks=(1, 64), dtype="u2"
            )
            for name in ("full", "none")
        }
        sparse["full"][...] = 1
        found = medians({name: partial(get, a) for name, a in sparse.items()}, 5, ROUNDS)
        TABLE.add("read 160 chunks, none there", found["none"], "all there", found["full"], "<= 1")
    for store in stores.values():
        sync(store.clear())


def main() -> None:
    start_ray(2**30)
    registry = RayBackendRegistry("bench")
    try:
        with folders() as (shared, disk):
            whole(registry, shared)
            compressed(shared, pipeline_in_use())
            if find_spec("zarrs"):
                compressed(shared, "zarrs")
            regions(shared)
            small(registry, disk)
            TABLE.write()
    finally:
        registry.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
