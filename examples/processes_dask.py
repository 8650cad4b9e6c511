"""Use a store in Dask's worker processes, which Ray did not start."""

from __future__ import annotations

import dask.bag as db
import numpy as np
import ray

from polystore import FileManager
from polystore_ray import RayBackendRegistry


def double(path: str, fm: FileManager) -> float:
    """Save the doubled value next to it, and return the sum of the value."""
    image = fm.load(path, backend="memory")
    fm.save(2 * image, f"{path}.doubled", backend="memory")
    return float(image.sum())


def main() -> None:
    """Map over a bag in processes; the same works with a `dask.distributed.LocalCluster`."""
    ray.init(num_cpus=2, object_store_memory=200 * 2**20)
    fm = FileManager(RayBackendRegistry("bags"))
    paths = [f"/images/{i}" for i in range(4)]
    fm.save_batch([np.full((2, 2), i) for i in range(4)], paths, backend="memory")

    sums = db.from_sequence(paths, npartitions=2).map(double, fm)
    print(sums.compute(scheduler="processes", num_workers=2))
    print(fm.load("/images/3.doubled", backend="memory").sum())


if __name__ == "__main__":
    main()
