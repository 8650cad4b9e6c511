"""A registry that is handed to another process is the same store there, or refuses at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import ray
import zarr
from fsspec import filesystem
from upath import UPath

from polystore import FileManager
from polystore_ray import RayBackendRegistry, StoreUnavailableError
from polystore_ray.dask import stack
from polystore_ray.zarr import ClusterStore

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def registry() -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry("travelling", timeout=30)
    yield registry
    registry.shutdown()


def elsewhere(function: Callable[..., Any], *arguments: Any, method: str = "spawn") -> Any:
    """Return what a function returns in a process of its own, which Ray did not start."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        return processes.submit(function, *arguments).result(120)


def doubled(registry: RayBackendRegistry, path: str) -> str:
    memory = registry["memory"]
    memory.save(2 * memory.load(path), f"{path}/../doubled")
    return str(ray.get_runtime_context().get_job_id())


@pytest.mark.parametrize(("method", "lifetime"), [("spawn", "job"), ("forkserver", "detached")])
def test_a_child_process_loads_and_saves_in_the_store_it_was_given(
    method: str, lifetime: Any
) -> None:
    registry = RayBackendRegistry("handed-over", lifetime=lifetime, timeout=30)
    memory = registry["memory"]
    memory.save(np.arange(50_000), "/a")
    job = elsewhere(doubled, registry, "/a", method=method)
    assert job != ray.get_runtime_context().get_job_id()
    # Its process has ended, and what it saved stays.
    assert memory.load("/doubled")[-1] == 2 * 49_999
    registry.shutdown()


def first_save(registry: RayBackendRegistry) -> None:
    FileManager(registry).save("from a child", "/b", backend="memory")


def test_a_store_that_nobody_has_used_yet_is_the_same_store_too(
    registry: RayBackendRegistry,
) -> None:
    elsewhere(first_save, registry)
    assert registry["memory"].load("/b") == "from a child"


def handed_on(registry: RayBackendRegistry) -> None:
    elsewhere(first_save, registry)


def test_a_registry_is_handed_on_from_child_to_child(registry: RayBackendRegistry) -> None:
    elsewhere(handed_on, registry)
    assert registry["memory"].load("/b") == "from a child"


def saved_by(path: Any) -> str:
    path.write_text("by a child")
    return str(path.fs.cat_file("memory/plate/notes.txt").decode())


def test_a_filesystem_and_its_paths_travel_likewise(registry: RayBackendRegistry) -> None:
    options = {"store": "travelling"}
    path = UPath("polystore://memory/plate", **options) / "notes.txt"
    path.parent.mkdir()
    assert elsewhere(saved_by, path) == "by a child"
    assert path.read_text() == "by a child"
    files = filesystem("polystore", **options)
    assert elsewhere(type(files).exists, files, "memory/plate/notes.txt")


def total(array: Any) -> int:
    array[0] = 5
    return int(array[:].sum())


def test_a_zarr_array_of_the_store_travels_likewise(registry: RayBackendRegistry) -> None:
    array = zarr.create_array(ClusterStore("/z", registry), data=np.arange(10), chunks=(5,))
    assert elsewhere(total, array) == 50
    assert array[0] == 5


def test_processes_of_dask_have_the_store(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    memory.save_batch([np.full(10, i) for i in range(3)], [f"/{i}" for i in range(3)])
    with dask.config.set(scheduler="processes", num_workers=1):
        assert stack("/*", registry).sum().compute() == 30


def test_a_file_on_the_disk_of_the_node_is_reached_through_the_same_host(
    registry: RayBackendRegistry, tmp_path: Path
) -> None:
    registry["disk"].save(np.arange(3), tmp_path / "a.npy")
    assert elsewhere(loaded, registry, str(tmp_path / "a.npy")) == [0, 1, 2]
    actors = ray.util.list_named_actors(all_namespaces=True)
    mine = [actor["name"] for actor in actors if "/travelling" in actor["namespace"]]
    assert sorted(name.split("@")[0] for name in mine if "memory" not in name) == [
        "controller",
        "disk",
    ]


def loaded(registry: RayBackendRegistry, path: str) -> Any:
    return registry["disk"].load(path).tolist()


SERVED = """
import sys, time
import ray
from polystore_ray import RayBackendRegistry
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
registry = RayBackendRegistry("served")
registry["memory"].save(7, "/weights")
replica = ray.get_actor("replica", "serving")
print(ray.get(replica.use.remote(registry)), registry["memory"].load("/answer"), flush=True)
sys.stdin.read()
"""


@ray.remote(num_cpus=0)
class Replica:
    """Started by one job, used by others, as a replica of Serve."""

    def __init__(self) -> None:
        self.registry: Any = None

    def use(self, registry: RayBackendRegistry | None = None) -> Any:
        self.registry = registry or self.registry
        try:
            self.registry["memory"].save("served", "/answer", overwrite=True)
            return self.registry["memory"].load("/weights")
        except StoreUnavailableError as error:
            return str(error)


def test_an_actor_of_another_job_uses_the_store_until_its_job_ends() -> None:
    replica = Replica.options(name="replica", namespace="serving").remote()  # type: ignore[attr-defined]
    ray.get(replica.__ray_ready__.remote())
    driver = subprocess.Popen(
        [sys.executable, "-c", SERVED, ray.get_runtime_context().gcs_address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "7 served\n"
    driver.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while (answer := ray.get(replica.use.remote())) == 7 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "ended" in str(answer) or "shut down" in str(answer)
    # Nor does it become another store there.
    assert not any(
        actor["namespace"].startswith("polystore/served")
        for actor in ray.util.list_named_actors(all_namespaces=True)
    )
    ray.kill(replica)


def test_a_registry_of_a_store_that_was_shut_down_is_no_later_store_of_its_name(
    registry: RayBackendRegistry,
) -> None:
    registry["memory"].save(1, "/a")
    travelled = pickle.loads(pickle.dumps(registry))
    assert travelled["memory"].load("/a") == 1
    assert travelled == registry
    registry.shutdown()
    registry["memory"].save(2, "/a")
    with pytest.raises(StoreUnavailableError, match="was shut down"):
        travelled["memory"].load("/a")
    travelled.shutdown()  # its own, which has ended
    assert registry["memory"].load("/a") == 2
    assert travelled["memory"].load("/a") == 2


def why_not(registry: RayBackendRegistry) -> str:
    try:
        registry["memory"].save(1, "/lost")
    except StoreUnavailableError as error:
        return f"{error}; connected: {ray.is_initialized()}"
    return "saved"


HANDED_ON_EARLY = """
from polystore_ray import RayBackendRegistry
from tests.cluster.test_travelling import elsewhere, why_not
import os
if __name__ == "__main__":
    registry = RayBackendRegistry()
    print(elsewhere(why_not, registry), flush=True)
    if not os.fork():
        print(why_not(registry), flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_registry_that_knew_no_cluster_starts_none_in_a_child(tmp_path: Path) -> None:
    script = tmp_path / "early.py"
    script.write_text(HANDED_ON_EARLY)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    spawned, forked = done.stdout.splitlines()
    assert "before it knew its cluster" in spawned, done.stderr
    assert "before it knew its cluster" in forked
    assert "connected: False" in spawned


def test_a_child_whose_cluster_is_gone_says_so_by_the_deadline_and_joins_no_other(
    registry: RayBackendRegistry,
) -> None:
    registry["memory"].save(1, "/a")
    gone = pickle.loads(pickle.dumps(registry))
    gone._home = gone._home._replace(address="127.0.0.1:9")
    assert "no Ray cluster answers at '127.0.0.1:9'" in elsewhere(why_not, gone)
    other = pickle.loads(pickle.dumps(registry))
    other._home = other._home._replace(cluster="session_of_yesterday")
    assert "connected to another cluster" in elsewhere(why_not, other)


def test_the_message_of_a_forked_child_advises_what_works(registry: RayBackendRegistry) -> None:
    registry["memory"].save(np.arange(3), "/a")
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, why_not(registry).encode())
        os._exit(0)
    os.wait()
    assert b"start it with 'spawn' or 'forkserver' and pass it the registry" in os.read(
        reading, 9999
    )
