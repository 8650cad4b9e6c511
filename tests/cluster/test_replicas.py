"""Nothing acknowledged is lost: replicas, takeovers, drains and fallbacks, on three nodes."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from polystore import PathNotFoundError
from polystore_ray import (
    DataLostError,
    RayBackendRegistry,
    StoreUnavailableError,
    TooFewNodesError,
)
from polystore_ray.actors import StoreOf, controller_of
from polystore_ray.actors.volume import VolumeActor
from polystore_ray.config.store import StoreOptions
from polystore_ray.deadline import Deadline
from polystore_ray.rayapi.placement import MEMORY, actor_options, host_name, store_namespace
from polystore_ray.rayapi.private import actor_id
from polystore_ray.testing.faults import Victims, worsen
from tests.cluster.nodes import MIB, WITHIN, Nodes, eventually, first, kill, save


@pytest.fixture
def registry(nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry(request.node.name[:60], replicas=2)
    yield registry
    registry.shutdown()


def pid_of(actor: Any) -> int:
    pid: int = ray.get(actor.__ray_call__.remote(process_id))
    return pid


def process_id(_: object) -> int:
    return os.getpid()


def controller_pid(registry: RayBackendRegistry) -> int:
    registry.status()
    return pid_of(registry._connect().handles.controller)


def test_a_value_is_on_two_nodes_when_its_save_returns(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    memory = registry["memory"]
    memory.save(np.full(MIB, 1), "/a")
    memory.save_batch([np.full(1000, i) for i in range(100)], [f"/b{i}" for i in range(100)])
    for path in ("/a", "/b7"):
        assert memory.stat(path)["replicas"] == 2
        [where] = memory.locations([path])
        assert where[0] == nodes.head
        assert len(set(where)) == 2
    assert registry.status().too_few_replicas == 0
    with pytest.raises(TooFewNodesError, match="the cluster has 3"):
        memory.save(np.zeros(MIB), "/many", replicas=4)
    assert not memory.exists("/many")
    memory.save(np.zeros(MIB), "/once", replicas=1)
    assert memory.stat("/once")["replicas"] == 1


def test_too_few_nodes_can_be_a_warning(nodes: Nodes) -> None:
    registry = RayBackendRegistry("warned", replicas=4, too_few_nodes="warn")
    with pytest.warns(UserWarning, match="the cluster has 3"):
        registry["memory"].save(np.zeros(MIB), "/a")
    assert registry["memory"].stat("/a")["replicas"] == 3
    late = nodes.add()
    assert eventually(lambda: registry["memory"].stat("/a")["replicas"] == 4)
    registry.shutdown()
    nodes.remove(late)


def test_the_loss_of_a_node_loses_nothing_and_replicas_are_made_anew(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    """All at once: Ray takes a second to tell that an owner is dead, as those of these are."""
    late = nodes.add()
    paths = [f"/{number}" for number in range(60)]

    def save_many(registry: RayBackendRegistry, paths: list[str]) -> None:
        for number, path in enumerate(paths):
            registry["memory"].save(np.full(20_000, number), path)

    nodes.run(late, save_many, registry, paths)
    small = "small, and in the controller alone"
    registry["memory"].save(small, "/small")
    start = time.monotonic()
    nodes.remove(late)
    for number in range(0, 60, 10):
        assert first(registry, f"/{number}") == (number, False)
    assert registry["memory"].load("/small") == small
    assert time.monotonic() - start < 60

    def is_made_anew() -> bool:
        where = registry["memory"].locations(paths)
        return all(late not in nodes and len(nodes) == 2 for nodes in where)

    assert eventually(is_made_anew)
    status = registry.status()
    assert (status.lost, status.too_few_replicas) == (0, 0)


def test_a_controller_that_is_killed_is_followed_by_one_that_knows_everything(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    memory = registry["memory"]
    for number in range(20):
        memory.save(number, f"/small/{number}", parents=True)
    kill(nodes.run(nodes.one, save, registry, "/large", 7))
    memory.move("/small", "/moved")
    versions = memory.stat("/moved/3")["version"]
    for round_ in range(2):
        pid = controller_pid(registry)
        os.kill(pid, signal.SIGKILL)
        assert memory.list_dir("/") == ["large", "moved"]
        assert memory.load_batch([f"/moved/{n}" for n in range(20)]) == list(range(20))
        assert first(registry, "/large") == (7, False)
        assert nodes.run(nodes.two, first, registry, "/large") == (7, False)
        assert memory.stat("/moved/3")["version"] == versions
        memory.save(round_, f"/after{round_}")
        memory.delete(f"/after{round_}")
        with pytest.raises(PathNotFoundError):
            memory.load("/small/1")
    status = registry.status()
    assert (status.epoch, status.lost, status.too_few_replicas) == (3, 0, 0)


def test_an_old_copy_of_the_tree_is_never_taken_for_the_present_one(nodes: Nodes) -> None:
    """One is left behind in a process that could not be told to forget it."""
    registry = RayBackendRegistry("old-copy", replicas=2)
    memory = registry["memory"]
    memory.save(np.zeros(MIB), "/a")
    victims = Victims(store_namespace("old-copy", ray.get_runtime_context().get_job_id()))
    epoch, heir = registry.status().epoch, registry.status().follower or ""
    other = next(n for n in (nodes.one, nodes.two) if n != heir)
    nodes.run(other, save, registry, "/made-a-volume-here", 1)
    number, [part] = ray.get(victims.volume(heir).state.remote(epoch))
    ray.get(victims.volume(other).take.remote(epoch, True, part))
    ray.get(victims.volume(other).install.remote(epoch, number, 1))
    memory.delete("/a")
    pids = [controller_pid(registry), pid_of(victims.volume(heir))]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for _ in range(2):  # nor is an empty tree by the controller after that
        with pytest.raises(StoreUnavailableError, match="the other copy of its tree"):
            memory.exists("/a")
        time.sleep(2.0)
        os.kill(pid_of(victims.controller()), signal.SIGKILL)
    registry.shutdown()
    assert not memory.exists("/a")
    registry.shutdown()


def test_the_follower_moves_from_a_node_that_leaves_and_takes_everything_along(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    memory = registry["memory"]
    memory.save(0, "/0")
    before = registry.status().follower or ""
    registry.drain(before)
    saved = 1

    def has_moved() -> bool:
        nonlocal saved
        memory.save(saved, f"/{saved}")
        saved += 1
        return registry.status().follower not in (None, before, nodes.head)

    assert eventually(has_moved)
    os.kill(controller_pid(registry), signal.SIGKILL)
    assert memory.load_batch([f"/{number}" for number in range(saved)]) == list(range(saved))


def test_a_volume_that_a_controller_did_not_know_of_is_taken_over(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    """The former controller made it, after this one had asked which volumes there are."""
    registry["memory"].save(np.full(MIB, 1), "/a")
    late = nodes.add()
    job = ray.get_runtime_context().get_job_id()
    namespace = store_namespace(registry._store, job)
    controller = registry._connect().handles.controller
    options = actor_options(namespace, host_name(MEMORY, late), late)
    store = StoreOf(namespace, job, StoreOptions(replicas=2))
    made = VolumeActor.options(**options).remote(controller, store, controller_of)
    kill(nodes.run(late, save, registry, "/b", 2))
    assert actor_id(Victims(namespace).volume(late)) == actor_id(made)
    assert first(registry, "/b") == (2, False)
    assert late in registry["memory"].locations(["/b"])[0]
    nodes.remove(late)
    assert first(registry, "/b") == (2, False)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_store_whose_memory_was_never_used_loses_no_tree(
    nodes: Nodes, tmp_path: Path, replicas: int
) -> None:
    registry = RayBackendRegistry(f"unused-{replicas}", replicas=replicas)
    registry["disk"].save(np.arange(3), tmp_path / "a.npy")
    handles = registry._connect().handles
    handles.host("memory", nodes.head, Deadline(30))
    os.kill(pid_of(handles.controller), signal.SIGKILL)
    registry["memory"].save(np.full(MIB, 1), "/a")
    assert first(registry, "/a") == (1, False)
    assert registry.status().epoch == 2
    registry.shutdown()


def test_saves_go_on_while_controllers_die(nodes: Nodes, registry: RayBackendRegistry) -> None:
    """Every save that returned is there once, whichever call was under way at each death."""
    memory = registry["memory"]
    memory.save(-1, "/start")

    def save_many(registry: RayBackendRegistry, name: str) -> int:
        for number in range(150):
            registry["memory"].save((name, number), f"/{name}/{number}", parents=True)
        return os.getpid()

    savers = [
        nodes.start(node, save_many, registry, name)
        for node, name in ((nodes.one, "one"), (nodes.two, "two"), (nodes.head, "head"))
    ]
    for _ in range(3):
        time.sleep(1.5)
        os.kill(controller_pid(registry), signal.SIGKILL)
    ray.get(savers, timeout=180)
    for name in ("one", "two", "head"):
        paths = [f"/{name}/{number}" for number in range(150)]
        assert memory.load_batch(paths) == [(name, number) for number in range(150)]
        assert len(memory.list_dir(f"/{name}")) == 150


def test_a_node_that_drains_hands_over_what_it_alone_has(nodes: Nodes) -> None:
    registry = RayBackendRegistry("drained")
    late = nodes.add()
    for number in range(4):
        kill(nodes.run(late, save, registry, f"/{number}", number))
    assert set(registry["memory"].locations([f"/{n}" for n in range(4)])) == {(late,)}
    assert registry.drain(late) == 0
    nodes.remove(late)
    for number in range(4):
        assert first(registry, f"/{number}") == (number, False)
    assert registry.status().lost == 0
    registry.shutdown()


def test_a_node_that_ray_announces_as_leaving_is_drained(nodes: Nodes) -> None:
    registry = RayBackendRegistry("announced")
    late = nodes.add()
    kill(nodes.run(late, save, registry, "/a", 5))
    command = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address"]
    command += [nodes.cluster.address, "--node-id", late, "--deadline-remaining-seconds", "600"]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert eventually(lambda: len(registry["memory"].locations(["/a"])[0]) == 2)
    nodes.remove(late)
    assert first(registry, "/a") == (5, False)
    registry.shutdown()


def test_a_lost_value_comes_back_from_its_fallback(nodes: Nodes, tmp_path: Path) -> None:
    registry = RayBackendRegistry("fallback")
    late = nodes.add()
    for number in range(3):
        kill(nodes.run(late, save, registry, f"/{number}", number))
    memory = registry["memory"]
    memory.persist("/0", "disk", tmp_path / "zero.npy")
    memory.persist("/1", "zarr", tmp_path / "one")
    assert memory.why("/0")["fallback"] == ("disk", str(tmp_path / "zero.npy"))
    assert np.load(tmp_path / "zero.npy")[0] == 0
    nodes.remove(late)
    assert eventually(lambda: registry.status().lost == 3)
    assert "the last copy was on node" in memory.why("/0")["lost"]
    assert memory.stat("/0")["lost"] == memory.why("/0")["lost"]
    found = {value.path: value for value in memory.lost()}
    assert set(found) == {"/0", "/1", "/2"}
    assert found["/0"].fallback == ("disk", str(tmp_path / "zero.npy"))
    assert {(value.node, value.host) for value in found.values()} == {(late, platform.node())}
    assert all(time.time() - value.time < WITHIN for value in found.values())
    assert [int(array[0]) for array in memory.load_batch(["/1", "/0"])] == [1, 0]
    assert not memory.load("/0").flags.writeable
    assert registry.status().lost == 1
    with pytest.raises(
        DataLostError, match=f"node {platform.node()} {late[:8]}, .* by 20.*Save the value again"
    ):
        memory.load("/2")
    registry.shutdown()


def test_a_volume_that_is_out_of_reach_for_a_moment_is_not_taken_for_dead(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    memory = registry["memory"]
    memory.save(np.full(MIB, 1), "/a")
    job = ray.get_runtime_context().get_job_id()
    victims = Victims(store_namespace(registry._store, job))
    before = victims.volume(nodes.head)
    worsen(before, seed=1, seconds=2.0, cut=True)
    memory.save(np.full(MIB, 2), "/b")
    assert actor_id(victims.volume(nodes.head)) == actor_id(before)
    assert registry.status().hosts_lost == 0
    assert [first(registry, path)[0] for path in ("/a", "/b")] == [1, 2]
