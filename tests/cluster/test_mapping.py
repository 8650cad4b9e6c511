"""`FileManager.map` on a cluster: tasks over files and over the memory."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from polystore import FileManager, PathNotFoundError, VFSTypeError
from polystore_ray import HostLostError, RayBackendRegistry

pytestmark = pytest.mark.usefixtures("ray_cluster")


def where(image: Any) -> int:
    if not image.any():
        raise KeyError("only zeros")
    return os.getpid()


@pytest.mark.parametrize("backend", ["memory", "disk", "zarr"])
def test_tasks_load_call_and_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths mean this directory in the tasks too
    fm = FileManager(RayBackendRegistry())
    top = f"in-{backend}"
    paths = [f"{top}/{name}.npy" for name in "abc"]
    fm.save_batch([np.ones(20_000), np.zeros(20_000), np.ones(3)], paths, backend)
    counts: list[int] = []
    done = fm.map(
        where,
        top,
        backend,
        to=f"out-{backend}",
        to_backend="disk",
        suffix=".json",
        errors="skip",
        progress=lambda done, _: counts.append(done),
        tasks={"num_cpus": 0.5},
    )
    assert done == [f"out-{backend}/a.npy", f"out-{backend}/c.npy"]
    assert counts == [1, 2, 3]
    assert [row["error"] for row in done.failures] == ["KeyError"]
    processes = {fm.load(path, "disk", suffix=".json") for path in done}
    assert os.getpid() not in processes
    with pytest.raises(KeyError, match="only zeros") as caught:
        fm.map(where, paths, backend)
    notes = "\n".join(caught.value.__notes__)
    assert 'raise KeyError("only zeros")' in notes
    assert f"{top}/b.npy" in notes
    assert len(traceback.format_exception(caught.value)) < 12
    with pytest.raises(PathNotFoundError, match="none"):
        fm.map(where, ["none.npy"], backend)


def dies_on_zeros(image: Any) -> int:
    if not image.any():
        os._exit(3)
    return int(image.sum())


@pytest.mark.parametrize("backend", ["memory", "disk"])
def test_a_task_whose_process_dies_is_a_failure_of_its_path_alone(
    tmp_path: Path, backend: str
) -> None:
    fm = FileManager(RayBackendRegistry())
    paths = [f"{tmp_path}/{name}.npy" for name in "abc"]
    fm.save_batch([np.ones(2), np.zeros(2), np.ones(3)], paths, backend)
    tasks = {"max_retries": 0}
    done = fm.map(dies_on_zeros, paths, backend, errors="skip", tasks=tasks)
    assert done == [2, 3]
    assert [(row["path"], row["error"]) for row in done.failures] == [(paths[1], "HostLostError")]
    assert "process died while it ran the function" in done.failures[0]["message"]
    with pytest.raises(HostLostError, match="process died") as caught:
        fm.map(dies_on_zeros, paths[1:], backend, tasks=tasks)
    assert paths[1] in caught.value.__notes__[0]


def test_wrong_options_of_a_task_are_an_error_of_the_caller() -> None:
    fm = FileManager(RayBackendRegistry())
    fm.save(1, "/a", "memory")
    with pytest.raises(VFSTypeError, match=r"those of ray\.remote.*num_gpu"):
        fm.map(str, ["/a"], "memory", errors="skip", tasks={"num_gpu": 1})


@ray.remote
def load(fm: FileManager, path: str, backend: str) -> Any:
    return fm.load(path, backend=backend)


@pytest.mark.parametrize("backend", ["memory", "disk"])
def test_the_traceback_of_a_task_ends_where_the_user_called(tmp_path: Path, backend: str) -> None:
    fm = FileManager(RayBackendRegistry())
    with pytest.raises(PathNotFoundError) as caught:
        ray.get(load.remote(fm, f"{tmp_path}/none.npy", backend))
    lines = str(caught.value).splitlines()
    assert [line for line in lines if "polystore" in line and "File" in line][1:] == []
    assert "direct cause" not in str(caught.value)
