"""Dask's own worker processes, which Ray did not start, on the values of a store."""

from __future__ import annotations

import dask.bag as db
import numpy as np
import ray

from polystore import FileManager
from polystore_ray import RayBackendRegistry


def double(path: str, fm: FileManager) -> float:
    """Save twice a value beside it, and return its sum."""
    image = fm.load(path, backend="memory")
    fm.save(2 * image, f"{path}.doubled", backend="memory")
    return float(image.sum())


def main() -> None:
    """Map over a bag in processes; a `dask.distributed.LocalCluster` is used likewise."""
    ray.init(num_cpus=2, object_store_memory=200 * 2**20)
    fm = FileManager(RayBackendRegistry("bags"))
    paths = [f"/images/{i}" for i in range(4)]
    fm.save_batch([np.full((2, 2), i) for i in range(4)], paths, backend="memory")

    sums = db.from_sequence(paths, npartitions=2).map(double, fm)
    print(sums.compute(scheduler="processes", num_workers=2))
    print(fm.load("/images/3.doubled", backend="memory").sum())


if __name__ == "__main__":
    main()
