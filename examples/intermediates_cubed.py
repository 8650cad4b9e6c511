"""Keep cubed's intermediate arrays in the memory of the cluster instead of a work directory."""

from __future__ import annotations

import cubed
import cubed.array_api as xp
import numpy as np
import ray
from cubed.runtime.create import create_executor

from polystore_ray import RayBackendRegistry
from polystore_ray.zarr import intermediates


def main() -> None:
    """Rechunk and reduce on Ray; nothing is left afterwards."""
    ray.init(num_cpus=2, object_store_memory=200 * 2**20)
    registry = RayBackendRegistry("cubed")
    values = np.arange(90_000, dtype="f8").reshape(300, 300)

    with intermediates(registry) as store:
        spec = cubed.Spec(
            intermediate_store=store,
            allowed_mem="200MB",
            zarr_compressor=None,
            executor=create_executor("ray"),
        )
        rows = cubed.from_array(values, chunks=(50, 300), spec=spec)
        columns = (rows + 1).rechunk((300, 50))
        print(float(xp.max(xp.mean(columns, axis=0)).compute()))
    print(registry["memory"].list_dir("/"))


if __name__ == "__main__":
    main()
