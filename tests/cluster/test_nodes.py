"""One memory on three nodes: where bytes are, and what is left when parts of a cluster are lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore_ray import DataLostError, RayBackendRegistry
from polystore_ray.testing import faults
from tests.cluster.nodes import MIB, Nodes, eventually, first, kill, save


@pytest.fixture
def registry(nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry(request.node.name[:60])
    yield registry
    registry.shutdown()


def test_bytes_are_where_they_were_saved_and_read_everywhere(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    for number, node in enumerate((nodes.head, nodes.one, nodes.two)):
        nodes.run(node, save, registry, f"/{number}", number)
    paths = [f"/{number}" for number in range(3)]
    assert registry["memory"].locations(paths) == [(nodes.head,), (nodes.one,), (nodes.two,)]
    for node in (nodes.head, nodes.one, nodes.two):
        for number in range(3):
            assert nodes.run(node, first, registry, f"/{number}") == (number, False)
    status = registry.status()
    assert {part.node for part in status.nodes} == {nodes.head, nodes.one, nodes.two}
    assert all(part.pinned_bytes > 8 * MIB for part in status.nodes)


def test_a_node_that_joins_later_works_by_itself(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    registry["memory"].save(np.full(MIB, 7), "/a")
    late = nodes.add()
    assert nodes.run(late, first, registry, "/a") == (7, False)
    nodes.run(late, save, registry, "/late", 8)
    assert registry["memory"].locations(["/late"]) == [(late,)]
    nodes.remove(late)
    assert eventually(lambda: late not in {n["NodeID"] for n in ray.nodes() if n["Alive"]})


def test_a_value_whose_saver_died_is_read_on_another_node(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    kill(nodes.run(nodes.one, save, registry, "/a", 5))
    for node in (nodes.two, nodes.one, nodes.head):
        assert nodes.run(node, first, registry, "/a") == (5, False)
    assert registry["memory"].locations(["/a"]) == [(nodes.one,)]


def test_references_outlive_the_saver(nodes: Nodes, registry: RayBackendRegistry) -> None:
    def save_small_too(registry: RayBackendRegistry) -> int:
        memory = registry["memory"]
        memory.save_batch(["small", np.full(MIB, 3)], ["/s", "/a"])
        memory.save_batch([np.full(1000, n) for n in range(100)], [f"/p{n}" for n in range(100)])
        return os.getpid()

    pid = nodes.run(nodes.one, save_small_too, registry)
    references = registry["memory"].refs(["/s", "/a", "/p7"])
    kill(pid)
    small, large, packed = ray.get(references)
    assert (small, int(large[0]), int(packed[0])) == ("small", 3, 7)
    assert not large.flags.writeable
    assert nodes.run(nodes.two, lambda array: int(array.sum()), references[1]) == 3 * MIB
    registry["memory"].delete("/a")
    assert ray.get(registry["memory"].ref("/p8"))[0] == 8


def test_what_a_task_returned_is_saved_where_it_is(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    memory = registry["memory"]
    reference = nodes.start(nodes.two, lambda: np.full(4 * MIB, 9))
    memory.save_ref(reference, "/d/a", parents=True)
    assert memory.locations(["/d/a"]) == [(nodes.two,)]
    assert first(registry, "/d/a") == (9, False)
    with pytest.raises(FileExistsError):
        memory.save_ref(reference, "/d/a")
    with pytest.raises(TypeError, match="ObjectRef"):
        memory.save_ref(ray.put([ray.put(1)]), "/d/b")


def test_map_runs_where_the_bytes_are(nodes: Nodes, registry: RayBackendRegistry) -> None:
    wanted = [nodes.one, nodes.two, nodes.head, nodes.two]
    for number, node in enumerate(wanted):
        nodes.run(node, save, registry, f"/{number}", number)

    def where(array: Any) -> tuple[int, str]:
        return int(array[0]), ray.get_runtime_context().get_node_id()

    paths = [f"/{number}" for number in range(4)]
    assert registry["memory"].map(where, paths) == [*enumerate(wanted)]
    with pytest.raises(ZeroDivisionError):
        registry["memory"].map(lambda array: 1 // 0, paths)


def kill_volume(registry: RayBackendRegistry, node: str) -> None:
    """Kill the process of a node's volume, as the memory monitor would."""
    namespace = next(
        actor["namespace"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if f"/{registry._store}/" in actor["namespace"]
    )
    volume = ray.get_actor(f"memory@{node}", namespace)
    pid: Any = volume.__ray_call__.remote(lambda _: os.getpid())
    kill(ray.get(pid))


def is_dead(actor: Any) -> bool:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=30)
    except ray.exceptions.RayActorError:
        return True
    return False


def test_a_volume_that_died_is_made_anew_and_pins_what_has_an_owner(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    @ray.remote(num_cpus=0)
    class Saver:
        def save(self, registry: RayBackendRegistry, path: str) -> int:
            return save(registry, path, 4)

    where = NodeAffinitySchedulingStrategy(nodes.one, soft=False)
    saver: Any = Saver
    lives, ends = (saver.options(scheduling_strategy=where).remote() for _ in range(2))
    ray.get(lives.save.remote(registry, "/kept"))
    [gone] = ray.get([ends.save.remote(registry, "/gone")])
    registry["memory"].save(1, "/small")
    kill(gone)
    assert eventually(lambda: is_dead(ends))
    kill_volume(registry, nodes.one)
    assert eventually(lambda: registry.status().hosts_lost == 1)
    assert eventually(lambda: registry["memory"].locations(["/kept"]) == [(nodes.one,)])
    # Ray may have given the bytes of the dead saver to the new volume still; they are there, or
    # known to be lost.
    try:
        assert first(registry, "/gone") == (4, False)
    except DataLostError as error:
        assert re.search(rf"node .*{nodes.one[:8]}.*'/gone' \(backend memory, store", str(error))  # noqa: PT017
    ray.kill(lives)
    assert nodes.run(nodes.two, first, registry, "/kept") == (4, False)
    assert registry["memory"].load("/small") == 1
    nodes.run(nodes.one, save, registry, "/new", 2)
    assert first(registry, "/new") == (2, False)
    registry["memory"].delete("/gone")
    assert registry.status().lost == 0


def test_what_has_lost_both_saver_and_volume_is_known_to_be_lost(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    kill(nodes.run(nodes.one, save, registry, "/gone", 1))
    controller = faults.process_of(registry._connect().handles.controller)
    faults.pause(controller, seconds=6.0)  # so that nobody saves what is left of it
    kill_volume(registry, nodes.one)
    nodes.run(nodes.one, take_the_whole_object_store)
    assert eventually(lambda: registry.status().lost == 1)
    with pytest.raises(DataLostError, match=f"node .*{nodes.one[:8]}"):
        registry["memory"].load("/gone")


def take_the_whole_object_store() -> None:
    ray.put(np.ones(230 * MIB, np.uint8))


def test_a_lost_node_loses_what_only_it_had_and_says_so(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    late = nodes.add()
    nodes.run(late, save, registry, "/gone", 1)
    nodes.run(nodes.one, save, registry, "/kept", 2)

    def save_small(registry: RayBackendRegistry) -> None:
        registry["memory"].save("small", "/small")

    nodes.run(late, save_small, registry)
    nodes.remove(late)
    assert eventually(lambda: registry.status().lost == 1)
    with pytest.raises(DataLostError, match=f"node .*{late[:8]}"):
        registry["memory"].load("/gone")
    assert registry["memory"].exists("/gone")
    assert first(registry, "/kept") == (2, False)
    assert registry["memory"].load("/small") == "small"
    nodes.run(nodes.one, save, registry, "/new", 3)
    registry["memory"].delete("/gone")


def test_a_volume_lost_during_saves_loses_no_save_that_returned(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    memory = registry["memory"]
    memory.save(np.zeros(MIB), "/0")
    for number in range(1, 12):
        if number == 5:
            kill_volume(registry, nodes.head)
        memory.save(np.full(MIB, number), f"/{number}")
    for number in range(12):
        assert first(registry, f"/{number}") == (number, False)
