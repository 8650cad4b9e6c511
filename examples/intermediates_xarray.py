"""Keep an intermediate dataset of xarray, computed by Dask on Ray, in the memory of the cluster."""

from __future__ import annotations

import dask
import numpy as np
import ray
import xarray as xr
from ray.util.dask import ray_dask_get

from polystore_ray import RayBackendRegistry
from polystore_ray.zarr import intermediates


def main() -> None:
    """Smooth a plate, store it, and use it twice; nothing is left afterwards."""
    ray.init(num_cpus=2, object_store_memory=200 * 2**20)
    registry = RayBackendRegistry("xarray")
    images = np.arange(8 * 64 * 64, dtype="f8").reshape(8, 64, 64)
    plate = xr.Dataset({"image": (("site", "y", "x"), images)}).chunk(site=1)

    with intermediates(registry) as store, dask.config.set(scheduler=ray_dask_get):
        uncompressed = {"image": {"compressors": None}}
        (plate - plate.mean("site")).to_zarr(store, consolidated=False, encoding=uncompressed)
        flat = xr.open_zarr(store, consolidated=False)["image"]
        print(float(flat.max().compute()), float(flat.mean().compute()))
    print(registry["memory"].list_dir("/"))


if __name__ == "__main__":
    main()
