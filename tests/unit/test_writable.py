"""What a load returns: views of arrays, fresh values, and private copies that are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polystore import BackendRegistry, DiskBackend, FileManager, MemoryBackend, ZarrBackend
from polystore_ray import RayBackendRegistry


def on_ray(key: str) -> Any:
    return RayBackendRegistry("writable", local=True)[key]


BACKENDS: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: MemoryBackend(),
    "disk": lambda _: DiskBackend(),
    "zarr": lambda _: ZarrBackend(),
    "cluster memory": lambda _: on_ray("memory"),
    "hosted disk": lambda _: on_ray("disk"),
    "hosted zarr": lambda _: on_ray("zarr"),
}


@pytest.mark.parametrize("key", BACKENDS)
@pytest.mark.parametrize("size", [6, 100_000])
def test_a_writable_array_is_a_private_copy(tmp_path: Path, key: str, size: int) -> None:
    backend, path = BACKENDS[key](tmp_path), f"{tmp_path}/a.npy"
    backend.save(np.arange(size), path, parents=True)
    whole = backend.load(path, writable=True)
    part = backend.load(path, region=slice(0, 3), writable=True)
    [listed] = backend.load_batch([path], writable=True)
    for array in (whole, part, listed):
        array[0] = 99
    assert backend.load(path)[0] == 0


def test_a_file_manager_gives_them_of_any_backend() -> None:
    fm = FileManager(BackendRegistry.isolated())
    fm.save(np.arange(3), "/a", backend="memory")
    assert not fm.load("/a", backend="memory").flags.writeable
    assert fm.load("/a", backend="memory", writable=True).flags.writeable
    assert fm.load_batch(["/a"], backend="memory", writable=True)[0].flags.writeable


@pytest.mark.parametrize("key", ["memory", "cluster memory"])
@pytest.mark.parametrize("rows", [3, 100_000])
def test_a_table_can_be_changed_in_place(tmp_path: Path, key: str, rows: int) -> None:
    backend = BACKENDS[key](tmp_path)
    table = pd.DataFrame({"n": np.arange(rows), "x": np.ones(rows)})
    for value in (table, {"table": table, "image": np.zeros(rows)}):
        path = f"{tmp_path}/{type(value).__name__}"
        backend.save(value, path, parents=True)
        loaded = backend.load(path)
        found = loaded["table"] if isinstance(loaded, dict) else loaded
        found.loc[0, "n"] = 99
        found["x"].to_numpy()
        again = backend.load(path)
        assert (again["table"] if isinstance(again, dict) else again).loc[0, "n"] == 0
    assert not loaded["image"].flags.writeable
    assert backend.load(path, writable=True)["image"].flags.writeable


def test_a_writable_masked_array_has_a_mask_of_its_own() -> None:
    memory = MemoryBackend()
    memory.save(np.ma.masked_array([1, 2], mask=[True, False]), "/a")
    loaded = memory.load("/a", writable=True)
    loaded[0], loaded.mask[1] = 7, True
    assert loaded.tolist() == [7, None]
    assert memory.load("/a").tolist() == [None, 2]


class _Greedy:
    def __reduce__(self) -> Any:
        raise MemoryError("no room")


def test_a_lack_of_memory_is_not_a_value_that_does_not_pickle() -> None:
    with pytest.raises(MemoryError, match="no room"):
        MemoryBackend().save(_Greedy(), "/a")
