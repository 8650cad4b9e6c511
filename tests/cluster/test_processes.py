"""Every kind of process has the same store: tasks in tasks, threads, async actors, clients."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from polystore import FileManager
from polystore_ray import RayBackendRegistry

pytestmark = pytest.mark.usefixtures("ray_cluster")

LARGE = 50_000
WRITERS, SAVES = 16, 8


@pytest.fixture
def fm() -> Iterator[FileManager]:
    registry = RayBackendRegistry("processes")
    yield FileManager(registry)
    registry.shutdown()


def test_an_async_actor_loads_and_saves_while_its_loop_goes_on(fm: FileManager) -> None:
    @ray.remote(num_cpus=0)
    class Worker:
        async def work(self, fm: FileManager, number: int) -> float:
            await fm.asave(np.full(LARGE, number), f"/async/{number}", backend="memory")
            return float((await fm.aload(f"/async/{number}", backend="memory"))[0])

        async def batch(self, fm: FileManager) -> list[int]:
            paths = [f"/async/b{i}" for i in range(4)]
            await fm.asave_batch(list(range(4)), paths, backend="memory")
            return await fm.aload_batch(paths[::-1], backend="memory")

    worker = Worker.remote()  # type: ignore[attr-defined]
    assert ray.get([worker.work.remote(fm, i) for i in range(8)]) == list(range(8))
    assert ray.get(worker.batch.remote(fm)) == [3, 2, 1, 0]


def test_threads_of_an_actor_share_its_connection(fm: FileManager) -> None:
    @ray.remote(num_cpus=0)
    def work(fm: FileManager) -> list[int]:
        def save(i: int) -> None:
            fm.save(np.full(LARGE, i), f"/threads/{i}", backend="memory")

        threads = [threading.Thread(target=save, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        paths = [f"/threads/{i}" for i in range(8)]
        return [int(array[0]) for array in fm.load_batch(paths, backend="memory")]

    assert ray.get(work.remote(fm)) == list(range(8))


def test_a_task_in_a_task_in_an_actor_has_the_store(fm: FileManager) -> None:
    @ray.remote(num_cpus=0)
    def inner(path: str) -> None:
        FileManager(RayBackendRegistry("processes")).save(1, path, backend="memory")

    @ray.remote(num_cpus=0)
    def outer(path: str) -> None:
        ray.get(inner.remote(f"{path}/inner"))

    @ray.remote(num_cpus=0)
    class Actor:
        def run(self) -> None:
            ray.get(outer.remote("/nested"))

    ray.get(Actor.remote().run.remote())  # type: ignore[attr-defined]
    assert fm.load("/nested/inner", backend="memory") == 1


def test_many_tasks_that_start_a_store_start_one() -> None:
    @ray.remote(num_cpus=0.05)
    def save(i: int) -> None:
        RayBackendRegistry("crowd")["memory"].save(np.zeros(LARGE), f"/{i}")

    ray.get([save.remote(i) for i in range(40)])
    registry = RayBackendRegistry("crowd")
    assert len(registry["memory"].list_dir("/")) == 40
    named = ray.util.list_named_actors(all_namespaces=True)
    mine = [actor["name"].split("@")[0] for actor in named if "/crowd/" in actor["namespace"]]
    assert sorted(mine) == ["controller", "memory"]
    registry.shutdown()


class Writer:
    def process(self) -> int:
        return os.getpid()

    def save(self, registry: RayBackendRegistry, writer: int) -> None:
        for number in range(SAVES):
            registry["memory"].save(writer + 1, "/a", region=(writer, number))


@pytest.fixture(scope="module")
def writers(ray_cluster: None) -> Iterator[list[Any]]:
    """Yield as many processes, since each takes a second to start."""
    writer_actor: Any = ray.remote(num_cpus=0)(Writer)
    made = [writer_actor.remote() for _ in range(WRITERS)]
    assert len(set(ray.get([writer.process.remote() for writer in made]))) == WRITERS
    yield made
    for writer in made:
        ray.kill(writer)


@pytest.mark.parametrize("depth", [1, 800], ids=["inside the controller", "as objects"])
def test_sixteen_processes_save_regions_of_one_array_and_all_of_them_land(
    depth: int, writers: list[Any]
) -> None:
    """They all read the whole, change a part, and save it unless another has been ahead."""
    registry = RayBackendRegistry(f"regions-{depth}")
    memory = registry["memory"]
    memory.save(np.zeros((WRITERS, SAVES, depth), np.uint8), "/a")
    before = memory.stat("/a")
    assert ("replicas" in before) == (depth > 1)  # only of an object
    ray.get([writer.save.remote(registry, i) for i, writer in enumerate(writers)], timeout=240)
    expected = np.arange(1, WRITERS + 1, dtype=np.uint8)[:, None, None]
    assert np.array_equal(memory.load("/a"), np.broadcast_to(expected, (WRITERS, SAVES, depth)))
    assert memory.stat("/a")["version"] == before["version"] + WRITERS * SAVES
    registry.shutdown()


CLIENT = """
import sys
import numpy as np
import ray

ray.init(sys.argv[1], log_to_driver=False)
from polystore import FileManager
from polystore_ray import RayBackendRegistry

fm = FileManager(RayBackendRegistry("client"))
large = np.arange(300_000)
fm.save(large, "/c/large", backend="memory")
fm.save({"n": [1]}, "/c/small", backend="memory")
times = np.datetime64("2026-01-02") + np.arange(40_000).astype("m8[D]")
fm.save(times, "/c/times", backend="memory")
values = [np.full(1000, i) for i in range(200)]
fm.save_batch(values, [f"/c/b/{i}" for i in range(200)], backend="memory")
loaded = fm.load("/c/large", backend="memory")
assert (loaded == large).all() and not loaded.flags.writeable
assert fm.load("/c/small", backend="memory") == {"n": [1]}
assert fm.load("/c/times", backend="memory").dtype == "M8[D]"
assert [int(v[0]) for v in fm.load_batch(["/c/b/7", "/c/b/199"], backend="memory")] == [7, 199]
fm.save(-1, "/c/large", backend="memory", region=0)
assert fm.load("/c/large", backend="memory")[0] == -1


@ray.remote
def inside(fm):
    array = fm.load("/c/large", backend="memory")
    fm.save(array[:5] + 1, "/c/by/task", backend="memory")
    return array.flags.writeable


assert ray.get(inside.remote(fm)) is False
assert fm.load("/c/by/task", backend="memory").tolist() == [0, 2, 3, 4, 5]
assert ray.get(fm.registry["memory"].ref("/c/large")).sum() == large.sum() - 1
fm.save(large, sys.argv[2] + "/a.npy", backend="disk")
assert (fm.load(sys.argv[2] + "/a.npy", backend="disk") == large).all()
assert fm.registry.status().files == 204
try:
    fm.load("/none", backend="memory")
except FileNotFoundError as error:
    print(error)
fm.registry.shutdown()
"""


def test_a_ray_client_has_the_store_too(tmp_path: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ray.get_runtime_context().gcs_address
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.util.client.server", "--mode=legacy"),
            *("--host=127.0.0.1", f"--port={port}", f"--address={address}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, f"ray://127.0.0.1:{port}", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        server.terminate()
        server.wait(30)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no such file: '/none' (backend memory, store " in done.stdout
