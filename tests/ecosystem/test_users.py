"""What people use with arrays and tables, on a store: pandas, pyarrow, xarray, Dask, UPath."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from pyarrow import fs as pafs
from upath import UPath

from polystore.exceptions import InvalidPathError, PathNotFoundError, UnsupportedFormatError
from polystore_ray import RayBackendRegistry
from polystore_ray.dask import stack
from polystore_ray.filesystem import PolystoreFileSystem
from polystore_ray.zarr import ClusterStore


@pytest.fixture
def options(registry: RayBackendRegistry) -> dict[str, Any]:
    """Return the storage options that lead to the store."""
    return {"store": registry._store, "local": registry._local}


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"cell": np.arange(100), "area": np.linspace(0, 1, 100)})


@pytest.fixture
def dataset() -> xr.Dataset:
    values = np.arange(2 * 30 * 40, dtype="f4").reshape(2, 30, 40)
    return xr.Dataset({"image": (("channel", "y", "x"), values)}, {"channel": [1, 2]})


class TestUsers:
    def test_pandas(self, options: dict[str, Any], place: str, frame: pd.DataFrame) -> None:
        for kind in ("csv", "parquet", "json"):
            url = f"polystore://memory{place}/cells.{kind}"
            kwargs = {} if kind != "csv" else {"index": False}
            getattr(frame, f"to_{kind}")(url, storage_options=options, **kwargs)
            again = getattr(pd, f"read_{kind}")(url, storage_options=options)
            pd.testing.assert_frame_equal(again, frame)

    def test_pyarrow(self, options: dict[str, Any], place: str, frame: pd.DataFrame) -> None:
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(PolystoreFileSystem(**options)))
        table = pq.read_table
        written = pa.Table.from_pandas(frame)
        filesystem.create_dir(f"memory{place}")
        pq.write_table(written, f"memory{place}/a.parquet", filesystem=filesystem)
        assert table(f"memory{place}/a.parquet", filesystem=filesystem).equals(written)
        assert table(f"memory{place}", filesystem=filesystem).equals(written)

    @pytest.mark.filterwarnings("ignore:The inplace keyword")  # of pandas, which Dask uses still
    def test_dask_dataframe(self, options: dict[str, Any], place: str, frame: pd.DataFrame) -> None:
        url = f"polystore://memory{place}/cells"
        with dask.config.set(scheduler="threads"):
            dd.from_pandas(frame, npartitions=3).to_parquet(url, storage_options=options)
            again = dd.read_parquet(url, storage_options=options)
            assert again.npartitions == 3
            pd.testing.assert_frame_equal(again.compute(), frame)

    def test_dask_array(self, registry: RayBackendRegistry, place: str) -> None:
        values = np.random.default_rng(0).random((100, 90))
        store = ClusterStore(f"{place}/a.zarr", registry)
        with dask.config.set(scheduler="threads"):
            da.to_zarr(da.from_array(values, chunks=(40, 50)), store)
            again = da.from_zarr(store)
            np.testing.assert_array_equal(again.compute(), values)
            assert (again + 1).mean().compute() == pytest.approx(values.mean() + 1)

    def test_xarray(self, registry: RayBackendRegistry, place: str, dataset: xr.Dataset) -> None:
        store = ClusterStore(f"{place}/a.zarr", registry)
        dataset.to_zarr(store, zarr_format=3, consolidated=False)
        xr.testing.assert_identical(xr.open_zarr(store, consolidated=False).load(), dataset)
        more = dataset.assign_coords(channel=[3, 4])
        more.to_zarr(store, append_dim="channel", consolidated=False)
        assert xr.open_zarr(store, consolidated=False).sizes["channel"] == 4

    def test_xarray_by_url(self, options: dict[str, Any], place: str, dataset: xr.Dataset) -> None:
        url = f"polystore://memory{place}/a.zarr"
        dataset.to_zarr(url, storage_options=options, zarr_format=3, consolidated=False)
        again = xr.open_zarr(url, storage_options=options, consolidated=False)
        xr.testing.assert_identical(again.load(), dataset)

    def test_the_url_and_the_store_are_one(
        self, registry: RayBackendRegistry, options: dict[str, Any], place: str
    ) -> None:
        values = np.arange(12).reshape(3, 4)
        zarr.create_array(ClusterStore(f"{place}/a.zarr", registry), data=values)
        url = f"polystore://memory{place}/a.zarr"
        again = zarr.open_array(url, mode="r", storage_options=options)
        np.testing.assert_array_equal(again[:], values)

    def test_upath(self, options: dict[str, Any], place: str) -> None:
        top = UPath(f"polystore://memory{place}", **options)
        path = top / "plate1" / "notes.txt"
        path.parent.mkdir(parents=True)
        path.write_text("three cells")
        assert path.read_text() == "three cells"
        assert path.exists()
        assert path.is_file()
        assert path.stat().st_size == len("three cells")
        assert path.suffix == ".txt"
        assert [found.name for found in top.iterdir()] == ["plate1"]
        assert [found.name for found in top.rglob("*.txt")] == ["notes.txt"]
        with (top / "a.npy").open("wb") as file:
            np.save(file, np.arange(3))
        path.unlink()
        assert not path.exists()

    def test_a_stack_of_arrays(self, registry: RayBackendRegistry, place: str) -> None:
        memory = registry["memory"]
        names = [f"{place}/img{i}.npy" for i in (1, 2, 10)]
        arrays = [np.full((4, 5), i, "u2") for i in (1, 2, 10)]
        memory.save_batch(arrays, names, parents=True)
        stacked = stack(f"{place}/*.npy", registry)
        assert stacked.shape == (3, 4, 5)
        assert stacked.dtype == np.dtype("u2")
        with dask.config.set(scheduler="threads"):
            assert stacked.max(axis=(1, 2)).compute().tolist() == [1, 2, 10]
            assert stack(names[:1], registry).compute()[0, 0, 0] == 1
        memory.save(np.zeros((4, 6), "u2"), f"{place}/img3.npy")
        with pytest.raises(UnsupportedFormatError, match=r"one shape and dtype.*img3"):
            stack(f"{place}/*.npy", registry)
        with pytest.raises(PathNotFoundError, match="no file matches"):
            stack(f"{place}/*.tif", registry)
        with pytest.raises(InvalidPathError, match="only the last name"):
            stack("/*/a.npy", registry)


class TestUsersOnACluster(TestUsers):
    local = False
