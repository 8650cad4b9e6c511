"""How long a store lives: drivers that come and go on a cluster that stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

MIB = 2**20
GONE_WITHIN = 90.0  # seconds

USE_IN_DRIVER = """
fm = FileManager(RayBackendRegistry())
fm.save(np.ones(2**20), "/a", backend="memory")
fm.list_dir("/", backend="disk")
"""
USE_IN_TASK = """
@ray.remote
def first_use():
    FileManager(RayBackendRegistry()).save(np.ones(2**20), "/a", backend="memory")
ray.get(first_use.remote())
"""
MAIN_BACKEND = """
class Mine(StorageBackend):
    _backend_type = "mine"
    def __init__(self): self.values = {}
    def load(self, path): return self.values[path]
    def save(self, data, path): self.values[path] = data
    def is_file(self, path): return path in self.values
    def is_dir(self, path): return False
    def list_dir(self, path): return sorted(self.values)

@ray.remote
def use(fm):
    assert "mine" in fm.registry and list(fm.registry)[-1] == "mine"
    fm.save(41, "a", backend="mine")
    return fm.load("a", backend="mine") + 1

@ray.remote
def made_anew():
    registry = RayBackendRegistry()
    assert "mine" in registry
    return registry["mine"].load("a")

print(ray.get(use.remote(FileManager(RayBackendRegistry()))), ray.get(made_anew.remote()))
"""


class Drivers:
    """A cluster, the drivers that use it one after another, and what they leave behind."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder

    def start(self, code: str, *, stay: bool = False) -> subprocess.Popen[str]:
        script = self.folder / "driver.py"
        script.write_text(
            "import time\nimport numpy as np\nimport ray\n"
            "from polystore import FileManager, StorageBackend\n"
            "from polystore_ray import RayBackendRegistry\n"
            f"ray.init(address={self.address!r}, log_to_driver=False, logging_level='ERROR')\n"
            f"{code}\nprint('done', flush=True)\n" + ("time.sleep(300)\n" if stay else "")
        )
        return subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str) -> str:
        driver = self.start(code)
        output, errors = driver.communicate(timeout=120)
        assert driver.returncode == 0, errors
        return output

    def actors(self) -> list[str]:
        return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]

    def objects(self) -> float:
        """Return the bytes that objects occupy in the object stores of the cluster."""
        total: float = ray.cluster_resources()["object_store_memory"]
        free: float = ray.available_resources()["object_store_memory"]
        return total - free

    def leave_nothing(self) -> bool:
        deadline = time.monotonic() + GONE_WITHIN
        while time.monotonic() < deadline:
            if not self.actors() and not self.objects():
                return True
            time.sleep(0.2)
        return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    # A cluster of its own, since the driver that watches must not be the one that is watched.
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


def test_a_detached_store_passes_values_from_driver_to_driver(drivers: Drivers) -> None:
    store = "fm = FileManager(RayBackendRegistry('plates', lifetime='detached'))\n"
    drivers.run(store + "fm.save(np.arange(2**20), '/a', backend='memory')")
    drivers.run(store + "fm.save('small', '/b', backend='memory')")
    output = drivers.run(
        store + "print(fm.load('/a', backend='memory').sum(), fm.load('/b', backend='memory'))"
    )
    assert output.split() == [str(sum(range(MIB))), "small", "done"]
    other = drivers.start(
        "try: RayBackendRegistry('plates')['memory'].load('/a')\n"
        "except FileNotFoundError as error: print(error)"
    )
    said, warned = other.communicate(timeout=120)
    assert "(backend memory, store 'plates', lifetime 'job')" in said
    assert "there is a detached store 'plates' too" in warned
    drivers.run(store + "fm.registry.shutdown()")
    assert drivers.leave_nothing()


@pytest.mark.parametrize("code", [USE_IN_DRIVER, USE_IN_TASK], ids=["driver", "task"])
def test_a_store_ends_with_its_job(drivers: Drivers, code: str) -> None:
    drivers.run(code)
    assert drivers.leave_nothing()


@pytest.mark.parametrize("code", [USE_IN_DRIVER, USE_IN_TASK], ids=["driver", "task"])
def test_a_store_ends_when_its_driver_is_killed(drivers: Drivers, code: str) -> None:
    driver = drivers.start(code, stay=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "done\n"
    assert "controller" in drivers.actors()
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=30)
    assert drivers.leave_nothing()


def test_a_store_outlives_its_controller_but_not_its_job(drivers: Drivers) -> None:
    driver = drivers.start(USE_IN_DRIVER, stay=True)
    assert driver.stdout is not None
    driver.stdout.readline()
    [namespace] = {actor["namespace"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    controller = ray.get_actor("controller", namespace)
    ray.kill(controller)
    successor = controller
    deadline = time.monotonic() + GONE_WITHIN
    while successor._actor_id == controller._actor_id and time.monotonic() < deadline:
        time.sleep(0.2)
        with suppress(ValueError):
            successor = ray.get_actor("controller", namespace)
    hosts: Any = ray.get(successor.hosts.remote(), timeout=30)[0]
    driver.kill()
    driver.communicate(timeout=30)
    assert sorted(key for key, _ in hosts) == ["disk", "memory"]
    assert drivers.leave_nothing()


def test_a_backend_of_main_is_used_in_tasks_and_found_there(drivers: Drivers) -> None:
    assert drivers.run(MAIN_BACKEND).split() == ["42", "41", "done"]
    assert drivers.leave_nothing()
