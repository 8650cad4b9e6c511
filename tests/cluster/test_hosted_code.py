"""The code of custom backends: from where it comes to a host, and what happens when it changes."""

from __future__ import annotations

import sys
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from polystore.registration import _REGISTRY
from polystore_ray import RayBackendRegistry
from tests.cluster.test_lifetimes import Drivers

MIB = 2**20

MINE = """
from pathlib import Path
from polystore import PathNotFoundError, ReadOnlyBackend

FACTOR = 1

class MineError(Exception):
    pass

class Mine(ReadOnlyBackend):
    _backend_type = "hosted_mine"

    def __init__(self, place=""):
        self.place = place
        self.loads = 0

    def load(self, path):
        if path == "/error":
            raise MineError(path)
        self.loads += 1
        return FACTOR, self.loads

    def is_file(self, path): return True
    def is_dir(self, path): return False
    def list_dir(self, path): return []

    def close(self):
        if self.place:
            Path(self.place, f"closed-{FACTOR}").touch()
"""


@pytest.fixture
def registry(tmp_path: Path, ray_cluster: None) -> Iterator[RayBackendRegistry]:
    define(MINE)
    registry = RayBackendRegistry(
        uuid.uuid4().hex, local=False, backends={"hosted_mine": {"place": str(tmp_path)}}
    )
    yield registry
    registry.shutdown()
    del _REGISTRY["hosted_mine"], sys.modules["hosted_module"]


def define(source: str) -> Any:
    """Define a backend in a module that no other process can import."""
    module = types.ModuleType("hosted_module")
    sys.modules["hosted_module"] = module
    exec(source, module.__dict__)
    return module


def test_a_node_without_the_module_runs_the_backend(registry: RayBackendRegistry) -> None:
    assert registry["hosted_mine"].load("/a") == (1, 1)
    with pytest.raises(sys.modules["hosted_module"].MineError):
        registry["hosted_mine"].load("/error")

    @ray.remote
    def load(registry: RayBackendRegistry) -> Any:
        return registry["hosted_mine"].load("/a")

    @ray.remote
    def load_by_name(store: str) -> Any:
        return RayBackendRegistry(store)["hosted_mine"].load("/a")

    assert ray.get(load.remote(registry)) == (1, 2)
    assert ray.get(load_by_name.remote(registry._store)) == (1, 3)


def test_a_changed_class_takes_the_place_of_the_former_one(
    registry: RayBackendRegistry, tmp_path: Path
) -> None:
    @ray.remote(num_cpus=0)
    class Worker:
        """One process that sees both versions."""

        def load(self, registry: RayBackendRegistry) -> Any:
            return registry["hosted_mine"].load("/a")

    worker: Any = Worker
    worker = worker.remote()
    assert ray.get(worker.load.remote(registry)) == (1, 1)
    define(MINE)  # the same again, as a notebook's cell that is run twice
    assert registry["hosted_mine"].load("/a") == (1, 2)
    assert not (tmp_path / "closed-1").exists()
    define(MINE.replace("FACTOR = 1", "FACTOR = 2"))
    assert ray.get(worker.load.remote(registry)) == (2, 1)
    assert (tmp_path / "closed-1").exists()
    assert registry["hosted_mine"].load("/a") == (2, 2)
    define(MINE)  # and back
    assert registry["hosted_mine"].load("/a") == (1, 1)
    assert ray.get(worker.load.remote(registry)) == (1, 2)
    assert (tmp_path / "closed-2").exists()


def test_a_new_controller_knows_the_classes(registry: RayBackendRegistry) -> None:
    assert registry["hosted_mine"].load("/a") == (1, 1)
    transport = registry._connect()
    ray.kill(transport.handles.controller)
    assert transport.shipped_classes().keys() == {"hosted_mine"}
    define(MINE.replace("FACTOR = 1", "FACTOR = 3"))
    assert registry["hosted_mine"].load("/a") == (3, 1)


USE = """
registry = RayBackendRegistry("coded", lifetime="detached")
print(registry["hosted_mine"].load("/a"))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    ray.shutdown()
    arguments = {"num_cpus": 2, "object_store_memory": 256 * MIB, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def drivers(cluster: str, tmp_path: Path) -> Drivers:
    return Drivers(cluster, tmp_path)


def in_environment(drivers: Drivers, source: str) -> str:
    """Return what makes a driver's job one whose runtime_env brings a module."""
    place = drivers.folder / "environment"
    place.mkdir(exist_ok=True)
    (place / "hosted_module.py").write_text(source)
    return (
        "ray.shutdown()\n"
        f"ray.init(address={drivers.address!r}, log_to_driver=False, logging_level='ERROR',\n"
        f"    runtime_env={{'working_dir': {str(place)!r}}})\n"
        f"import sys; sys.path.insert(0, {str(place)!r})\n"
        "import hosted_module\n"
    )


def kill_host(drivers: Drivers) -> None:
    [(name, namespace)] = [
        (actor["name"], actor["namespace"])
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["name"].startswith("hosted_mine@")
    ]
    ray.kill(ray.get_actor(name, namespace))


def test_code_of_a_runtime_env_outlives_its_job(drivers: Drivers) -> None:
    # Another job, without the code, makes the store, so that its actors have not that environment.
    drivers.run("RayBackendRegistry('coded', lifetime='detached')['memory'].save(1, '/a')")
    assert drivers.run(in_environment(drivers, MINE) + USE).startswith("(1, 1)")
    assert drivers.run(USE).startswith("(1, 2)")
    kill_host(drivers)
    assert drivers.run(USE).startswith("(1, 1)")
    drivers.run("RayBackendRegistry('coded', lifetime='detached').shutdown()")
    assert drivers.leave_nothing()


def test_a_cell_of_a_notebook_is_run_again_and_then_changed(drivers: Drivers) -> None:
    use = "print(RayBackendRegistry()['hosted_mine'].load('/a'))\n"
    changed = MINE.replace("FACTOR = 1", "FACTOR = 2")
    output = drivers.run(f"{MINE}\n{use}{MINE}\n{use}{changed}\n{use}")
    assert output.splitlines() == ["(1, 1)", "(1, 2)", "(2, 1)", "done"]
    assert drivers.leave_nothing()


def test_code_that_cannot_travel_says_so(drivers: Drivers) -> None:
    drivers.run("RayBackendRegistry('coded', lifetime='detached')['memory'].save(1, '/a')")
    stuck = MINE.replace("FACTOR = 1", "import threading\nFACTOR = threading.Lock()")
    output = drivers.run(
        in_environment(drivers, stuck)
        + "try:\n    RayBackendRegistry('coded', lifetime='detached')['hosted_mine'].load('/a')\n"
        "except ValueError as error:\n    print(error)\n"
    )
    assert "hosted_module" in output
    assert "lock" in output
    assert "install its package on every node" in output
    drivers.run("RayBackendRegistry('coded', lifetime='detached').shutdown()")
    assert drivers.leave_nothing()
