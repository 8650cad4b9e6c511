"""Ray Data: values as datasets without a copy, and datasets as values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from polystore.exceptions import PathExistsError, PathNotFoundError
from polystore_ray import RayBackendRegistry

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    # Ray Data sets what it has deprecated itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture
def registry(shared_registry: RayBackendRegistry) -> RayBackendRegistry:
    return shared_registry


@pytest.fixture
def data() -> Any:
    """Return the module, whose import of Ray's own takes a second."""
    from polystore_ray import data

    return data


def test_arrays_are_rows(data: Any, registry: RayBackendRegistry, place: str) -> None:
    arrays = {f"{place}/{i}.npy": np.full((30, 40), i, "f4") for i in (1, 2, 10)}
    registry["memory"].save_batch([*arrays.values()], [*arrays], parents=True)
    dataset = data.read(f"{place}/*.npy", registry)
    rows = {row["path"]: row["data"] for row in dataset.take_all()}
    assert rows.keys() == arrays.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(rows[path], array)


def test_a_function_sees_views(data: Any, registry: RayBackendRegistry, place: str) -> None:
    registry["memory"].save(np.ones(2**22), f"{place}/a.npy", parents=True)

    def facts(row: dict[str, Any]) -> dict[str, Any]:
        array = row["data"]
        while isinstance(array.base, np.ndarray):
            array = array.base
        return {"is_view": not array.flags.owndata, "writeable": array.flags.writeable}

    assert data.read([f"{place}/a.npy"], registry).map(facts).take_all() == [
        {"is_view": True, "writeable": False}
    ]


def test_tables_are_written_and_read(data: Any, registry: RayBackendRegistry, place: str) -> None:
    import ray

    dataset = ray.data.range(100, override_num_blocks=4)
    data.write(dataset, f"{place}/table", registry)
    files = registry["memory"].list_files(f"{place}/table")
    assert len(files) >= 1
    assert isinstance(registry["memory"].load(files[0]), pa.Table)
    again = data.read(f"{place}/table/*", registry)
    assert sorted(row["id"] for row in again.take_all()) == list(range(100))


def test_a_frame_is_a_table(data: Any, registry: RayBackendRegistry, place: str) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3]})
    registry["memory"].save(frame, f"{place}/frame", parents=True)
    assert data.read([f"{place}/frame"], registry).sum("a") == 6


def test_arrays_are_written_at_their_names(
    data: Any, registry: RayBackendRegistry, place: str
) -> None:
    memory = registry["memory"]
    memory.save_batch(
        [np.full((3, 4), i) for i in range(3)],
        [f"{place}/raw/{i}.npy" for i in range(3)],
        parents=True,
    )

    def negative(row: dict[str, Any]) -> dict[str, Any]:
        return {"path": row["path"], "data": -row["data"]}

    done = data.read(f"{place}/raw/*.npy", registry).map(negative)
    data.write(done, f"{place}/done", registry, column="data")
    assert memory.list_dir(f"{place}/done") == ["0.npy", "1.npy", "2.npy"]
    assert memory.load(f"{place}/done/2.npy").tolist() == [[-2] * 4] * 3
    with pytest.raises(PathExistsError):
        data.write(done, f"{place}/done", registry, column="data")
    data.write(done, f"{place}/done", registry, column="data", overwrite=True)


def test_arrays_of_any_dtype_are_read_together_and_written(
    data: Any, registry: RayBackendRegistry, place: str
) -> None:
    arrays = {
        "big": np.arange(3, dtype=">u2"),
        "complex": np.array([1 + 2j, 3]),
        "little": np.arange(4, dtype="f4"),
        "scalar": np.array(1.5, "f4"),
    }
    registry["memory"].save_batch(
        [*arrays.values()], [f"{place}/raw/{name}" for name in arrays], parents=True
    )
    dataset = data.read(f"{place}/raw/*", registry)
    rows = {row["path"].rpartition("/")[2]: row["data"] for row in dataset.take_all()}
    data.write(dataset, f"{place}/done", registry, column="data")
    for name, array in arrays.items():
        for got in (rows[name], registry["memory"].load(f"{place}/done/{name}")):
            assert got.dtype == array.dtype.newbyteorder("=")
            np.testing.assert_array_equal(got, array)


def test_a_write_that_fails_in_a_task_leaves_nothing(
    data: Any, registry: RayBackendRegistry, place: str
) -> None:
    import ray

    def fail(row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 3:
            raise ZeroDivisionError
        return row

    dataset = ray.data.range(4, override_num_blocks=4).map(fail)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        data.write(dataset, f"{place}/table", registry)
    assert registry["memory"].list_dir(place) == []


def test_what_is_missing_says_so(data: Any, registry: RayBackendRegistry, place: str) -> None:
    with pytest.raises(PathNotFoundError, match=place):
        data.read(f"{place}/*.npy", registry)


def test_ray_data_reads_and_writes_urls(registry: RayBackendRegistry, place: str) -> None:
    import ray

    from polystore_ray.filesystem import PolystoreFileSystem

    files = PolystoreFileSystem(registry._store, local=False)
    ray.data.range(50).write_parquet(f"memory{place}/table", filesystem=files)
    again = ray.data.read_parquet(f"memory{place}/table", filesystem=files)
    assert again.sum("id") == sum(range(50))
