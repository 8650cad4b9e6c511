"""Connections that end, are lost, or cannot be made."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.experimental import internal_kv

from polystore_ray import (
    CallTimeoutError,
    HostLostError,
    RayBackendRegistry,
    StoreUnavailableError,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def process_id(_: object) -> int:
    return os.getpid()


def named_namespaces() -> set[str]:
    return {actor["namespace"] for actor in ray.util.list_named_actors(all_namespaces=True)}


def test_a_store_cached_before_a_new_ray_is_not_used_after() -> None:
    done = run(
        "import ray\n"
        "from polystore_ray import RayBackendRegistry\n"
        "memory = RayBackendRegistry()['memory']\n"
        "for i in range(2):\n"
        "    ray.init('local', num_cpus=1, object_store_memory=10**8, include_dashboard=False)\n"
        "    print(memory.exists('/a'))\n"
        "    memory.save(i, '/a')\n"
        "    print(memory.load('/a'))\n"
        "    ray.shutdown()\n"
    )
    assert done.stdout.split() == ["False", "0", "False", "1"], done.stderr


def test_a_forked_child_is_told_so_at_once() -> None:
    memory = RayBackendRegistry()["memory"]
    memory.exists("/a")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            memory.exists("/a")
        except StoreUnavailableError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"forked" in os.read(reading, 4096)


def test_a_cluster_that_does_not_answer_is_unavailable_at_once() -> None:
    done = run(
        "import os\n"
        "os.environ['RAY_ADDRESS'] = '127.0.0.1:9'\n"
        "from polystore_ray import RayBackendRegistry, StoreUnavailableError\n"
        "try:\n"
        "    RayBackendRegistry()['memory'].exists('/a')\n"
        "except StoreUnavailableError as error:\n"
        "    print(error)\n"
    )
    assert "no Ray cluster answers at '127.0.0.1:9'" in done.stdout, done.stderr


def test_eight_threads_that_start_a_store_start_one() -> None:
    registry = RayBackendRegistry("threads")
    start = threading.Barrier(8)
    errors: list[Exception] = []

    def save(i: int) -> None:
        start.wait()
        try:
            registry["memory"].save(np.zeros(20_000), f"/{i}")
        except Exception as error:  # noqa: BLE001 - any is a failure
            errors.append(error)

    threads = [threading.Thread(target=save, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert registry["memory"].list_dir("/") == [str(i) for i in range(8)]
    registry.shutdown()


def kill_host(store: str, key: str) -> None:
    """Kill the one host of a backend, and wait until Ray knows."""
    [host] = [
        actor
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["name"].startswith(f"{key}@") and f"/{store}/" in actor["namespace"]
    ]
    ray.kill(ray.get_actor(host["name"], host["namespace"]))
    deadline = time.monotonic() + 30
    while host in ray.util.list_named_actors(all_namespaces=True) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_lost_host_fails_its_call_and_the_next_has_a_new_one(tmp_path: Path) -> None:
    registry = RayBackendRegistry("hosts")
    disk = registry["disk"]
    disk.save(np.arange(3), tmp_path / "a.npy")
    kill_host("hosts", "disk")
    # What changes nothing is asked again of a new host; what might is for its caller to decide.
    assert disk.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
    kill_host("hosts", "disk")
    with pytest.raises(HostLostError, match=r"may have been executed.*b\.npy' \(backend disk\)"):
        disk.save(np.arange(4), tmp_path / "b.npy")
    disk.save(np.arange(4), tmp_path / "b.npy", overwrite=True)
    assert disk.load(tmp_path / "b.npy").tolist() == [0, 1, 2, 3]
    registry.shutdown()


def test_a_store_that_lost_every_copy_of_its_tree_says_so_until_it_is_shut_down() -> None:
    registry = RayBackendRegistry("lost")
    memory = registry["memory"]
    memory.save(1, "/a")
    controller = registry._connect().handles.controller
    # Paused, the controller cannot look for another follower; and it is killed so.
    pid: int = ray.get(controller.__ray_call__.remote(process_id))
    os.kill(pid, signal.SIGSTOP)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith("memory@") and "/lost/" in actor["namespace"]:
            ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
    os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="the other copy of its tree"):
            memory.load("/a")
    registry.shutdown()
    memory.save(2, "/a")
    assert memory.load("/a") == 2
    registry.shutdown()


def test_a_controller_that_does_not_answer_is_a_timeout_by_the_deadline() -> None:
    RayBackendRegistry("paused")["memory"].save(1, "/a")
    registry = RayBackendRegistry("paused", timeout=3)
    memory = registry["memory"]
    controller = registry._connect().handles.controller
    pid: int = ray.get(controller.__ray_call__.remote(process_id))
    os.kill(pid, signal.SIGSTOP)
    try:
        calls: list[Callable[[], Any]] = [
            lambda: memory.load("/a"),
            lambda: memory.save(np.zeros(50_000), "/b"),
        ]
        for call in calls:
            start = time.monotonic()
            with pytest.raises(CallTimeoutError, match="3 s"):
                call()
            assert time.monotonic() - start < 8
    finally:
        os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + 30
    while registry.status().calls > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert memory.load("/a") == 1
    registry.shutdown()


def test_a_controller_that_cannot_start_makes_the_store_unavailable_by_the_deadline() -> None:
    done = run(
        "import os, signal, time, ray\n"
        "from polystore_ray import RayBackendRegistry, StoreUnavailableError\n"
        "ray.init('local', num_cpus=1, object_store_memory=10**8, include_dashboard=False)\n"
        "raylet = ray._private.worker._global_node.all_processes['raylet'][0].process\n"
        "raylet.send_signal(signal.SIGSTOP)\n"
        "start = time.monotonic()\n"
        "try:\n"
        "    RayBackendRegistry(timeout=3)['memory'].exists('/a')\n"
        "except StoreUnavailableError as error:\n"
        "    print(error, time.monotonic() - start < 10)\n"
        "raylet.send_signal(signal.SIGCONT)\n"
    )
    assert "did not start within 3 s" in done.stdout, done.stderr
    assert done.stdout.strip().endswith("True")


def test_a_call_with_little_time_does_not_wait_for_one_with_much() -> None:
    hurried = RayBackendRegistry("patience", timeout=2)
    patient = RayBackendRegistry("patience", timeout=40)
    patient["memory"].save(1, "/a")
    pid: int = ray.get(patient._connect().handles.controller.__ray_call__.remote(process_id))
    os.kill(pid, signal.SIGSTOP)
    answers: list[Any] = []
    try:
        # Both in need of the controller, and of a host that nobody has asked for yet.
        waiting = [
            threading.Thread(target=lambda: answers.append(patient["memory"].load("/a"))),
            threading.Thread(target=lambda: answers.append(patient["disk"].exists("/tmp"))),
        ]
        for thread in waiting:
            thread.start()
        time.sleep(0.5)
        calls: list[Callable[[], Any]] = [
            lambda: hurried["memory"].load("/a"),
            lambda: hurried["disk"].exists("/tmp"),
            lambda: hurried.status(),
        ]
        for call in calls:
            start = time.monotonic()
            with pytest.raises(CallTimeoutError, match="2 s"):
                call()
            assert time.monotonic() - start < 12
    finally:
        os.kill(pid, signal.SIGCONT)
    for thread in waiting:
        thread.join()
    assert answers in ([1, True], [True, 1])
    patient.shutdown()


def test_what_listens_and_does_not_answer_is_no_cluster_by_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = run(
            "import os, time\n"
            f"os.environ['RAY_ADDRESS'] = '127.0.0.1:{port}'\n"
            "from polystore_ray import RayBackendRegistry, StoreUnavailableError\n"
            "import polystore_ray.transport.connect\n"
            "start = time.monotonic()\n"
            "try:\n"
            "    RayBackendRegistry(timeout=3)['memory'].exists('/a')\n"
            "except StoreUnavailableError as error:\n"
            "    print(error, time.monotonic() - start < 15, flush=True)\n"
            "os._exit(0)\n"
        )
    assert "does not answer within 3 s" in done.stdout, done.stderr
    assert done.stdout.strip().endswith("True")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Give a folder whose path leaves room for the names of Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        yield Path(folder)


def test_the_file_of_a_cluster_that_was_killed_stops_nobody(short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as past:
        port = past.getsockname()[1]
    (short_path / "ray").mkdir()
    (short_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    # Not with "auto", which takes any cluster of the machine, such as that of these tests.
    done = run(
        "import os\n"
        f"os.environ |= {{'RAY_TMPDIR': {str(short_path)!r}, 'RAY_ADDRESS': ''}}\n"
        "from polystore_ray import RayBackendRegistry\n"
        "print(RayBackendRegistry(timeout=20)['memory'].exists('/a'))\n"
    )
    assert done.stdout == "False\n", done.stderr


def test_a_registry_travels_after_another_connection_of_the_process_has_ended() -> None:
    registry = RayBackendRegistry("travels-later")
    registry["memory"].save(1, "/a")
    internal_kv._internal_kv_reset()  # as the end of that connection does
    assert pickle.loads(pickle.dumps(registry))["memory"].load("/a") == 1
    registry.shutdown()
