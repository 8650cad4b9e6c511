"""A detached store outlives the head of a cluster whose control store is in Redis, and says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
from click.testing import CliRunner

from polystore_ray import RayBackendRegistry
from polystore_ray.cli.__main__ import polystore_command
from polystore_ray.rayapi.placement import store_namespace
from polystore_ray.testing import needs
from polystore_ray.testing.faults import Victims, is_alive
from polystore_ray.testing.nodes import Nodes
from polystore_ray.testing.redis import RedisServer

pytestmark = [
    pytest.mark.timeout(300),
    # Of Ray's own cluster utilities.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(
        needs.goes_without("redis-server"),
        reason="POLYSTORE_FAULTS_WITHOUT says to do without Redis",
    ),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    if ray.is_initialized():
        ray.shutdown()
    made = Nodes(3)
    yield made
    made.close()


def findings() -> dict[str, dict[str, str]]:
    done = CliRunner().invoke(polystore_command, ["doctor", "--json"])
    return {finding["what"]: finding for finding in json.loads(done.output)}


def test_a_store_lives_on_when_all_processes_of_the_head_are_killed(nodes: Nodes) -> None:
    registry = RayBackendRegistry("plates", lifetime="detached", replicas=2, timeout=120)
    memory = registry["memory"]
    arrays = {f"/large{number}": np.full(50_000, number) for number in range(6)}
    for path, array in arrays.items():
        memory.save(array, path)
    memory.save_batch([[number] for number in range(20)], [f"/small{n}" for n in range(20)])
    assert registry.status().follower not in (None, nodes.head)
    assert registry.status().lost_with_head == ()
    seen: list[Any] = []

    def wait_and_go_on() -> None:
        time.sleep(0.5)
        memory.save("saved while there was no head", "/meanwhile")
        seen.append(memory.load("/meanwhile"))

    client = threading.Thread(target=wait_and_go_on)
    client.start()
    lost = nodes.lose_head()
    client.join(120)
    assert seen == ["saved while there was no head"]
    for path, array in arrays.items():
        assert np.array_equal(memory.load(path), array)
    assert memory.load_batch([f"/small{n}" for n in range(20)]) == [[n] for n in range(20)]
    after = registry.status()
    assert (after.epoch, after.lost) == (2, 0)
    assert nodes.head != lost
    deadline = time.monotonic() + 120
    while registry.status().lost_with_head:  # until another copy of the tree is elsewhere
        assert time.monotonic() < deadline
        time.sleep(0.2)
    registry.shutdown()


def test_doctor_and_status_name_what_is_missing_and_the_cure(nodes: Nodes) -> None:
    safe = RayBackendRegistry("safe", lifetime="detached", replicas=2)
    safe["memory"].save([1], "/a")
    single = RayBackendRegistry("single", lifetime="detached")
    single["memory"].save([1], "/a")
    of_job = RayBackendRegistry("of-job", replicas=2)
    of_job["memory"].save([1], "/a")
    found = findings()
    assert found["control store"]["verdict"] == "ok"
    assert "redis" in found["control store"]["seen"]
    assert found["store safe"]["verdict"] == "ok"
    assert found["store single"]["verdict"] == "warning"
    assert "replicas=2" in found["store single"]["cure"]
    assert any("detached" in reason for reason in of_job.status().lost_with_head)
    shown = CliRunner().invoke(polystore_command, ["--store", "single", "status"]).output
    assert "use replicas=2" in shown
    for registry in (safe, single, of_job):
        registry.shutdown()


def test_rays_control_store_keeps_no_events_of_calls_to_a_store(nodes: Nodes) -> None:
    registry = RayBackendRegistry("quiet", lifetime="detached")
    registry["memory"].save([1], "/a")
    victims = Victims(store_namespace("quiet", None))
    for actor in (victims.controller(), *victims.volumes()):
        assert actor._ray_enable_task_events is False
    registry.shutdown()


def test_redis_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os; from polystore_ray.testing.redis import RedisServer;"
        "server = RedisServer(); print(server._process.pid, server._folder, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid, folder = done.stdout.split()
    deadline = time.monotonic() + 30
    while is_alive(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    shutil.rmtree(folder)


def test_without_redis_the_kit_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(needs.MissingProgramError, match="apt-get install redis-server"):
        RedisServer()
