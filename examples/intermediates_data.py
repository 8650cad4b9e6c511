"""Read an intermediate zarr array in the memory of the cluster with Ray Data, a row per region.

Ray's own `ray.data.read_zarr` needs zarr 2 and does not run with zarr 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
import zarr

from polystore_ray import RayBackendRegistry
from polystore_ray.zarr import intermediates, read


def main() -> None:
    """Write an array, and sum its frames in tasks; nothing is left afterwards."""
    ray.init(num_cpus=2, object_store_memory=200 * 2**20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    registry = RayBackendRegistry("data")

    with intermediates(registry) as store:
        frames = np.arange(8 * 16, dtype="f4").reshape(8, 4, 4)
        array = zarr.create_array(store, data=frames, chunks=(1, 4, 4), compressors=None)

        def summed(row: dict[str, Any]) -> dict[str, Any]:
            return {"id": row["id"], "sum": float(read(array, row["id"]).sum())}

        rows = ray.data.range(8).map(summed).sort("id").take_all()
        print([row["sum"] for row in rows])
    print(registry["memory"].list_dir("/"))


if __name__ == "__main__":
    main()
