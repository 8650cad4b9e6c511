"""Reads without a call on three nodes: never an older value than what was acknowledged."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore import PathNotFoundError
from polystore_ray import RayBackendRegistry
from polystore_ray.controller.leases import HELD
from polystore_ray.rayapi import placement
from polystore_ray.rayapi.private import store_stats
from polystore_ray.testing import faults
from tests.cluster.nodes import MIB, WITHIN, Nodes, eventually

READS = 50


@pytest.fixture
def registry(nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry(request.node.name[:60], lifetime="detached")
    registry["memory"].save(0, "/hot")
    yield registry
    registry.shutdown()


class Reader:
    """A process that reads on and on."""

    def __init__(self, registry: RayBackendRegistry) -> None:
        self._registry = registry
        self._memory = registry["memory"]

    def pid(self) -> int:
        return os.getpid()

    def load(self, path: str = "/hot") -> Any:
        return self._memory.load(path)

    def hits(self, path: str = "/hot") -> int:
        """Read some times; return how often that needed no call."""
        before = self._registry.status().lease_hits
        for _ in range(READS):
            self._memory.load(path)
            self._memory.exists(path)
        return self._registry.status().lease_hits - before

    def keeps(self, path: str = "/hot") -> bool:
        return eventually(lambda: self.hits(path) == 2 * READS)

    def read_until(self, last: int) -> list[int]:
        """Return what was read, each number once."""
        seen = [-1]
        while seen[-1] < last:
            value = self._memory.load("/hot")
            if value != seen[-1]:
                seen.append(value)
        return seen


Reading = Callable[[str], Any]


@pytest.fixture
def reader(registry: RayBackendRegistry) -> Iterator[Reading]:
    """Return a function that makes a reader on a node, which keeps what it reads."""
    made: list[Any] = []

    def make(node: str) -> Any:
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        actor: Any = ray.remote(num_cpus=0)(Reader)
        made.append(actor.options(scheduling_strategy=where).remote(registry))
        assert ray.get(made[-1].keeps.remote(), timeout=120)
        return made[-1]

    yield make
    for actor in made:
        ray.kill(actor)


def victims(registry: RayBackendRegistry) -> faults.Victims:
    return faults.Victims(registry._connect().store.namespace)


def test_readers_of_all_nodes_see_what_was_acknowledged(
    nodes: Nodes, registry: RayBackendRegistry, reader: Reading
) -> None:
    memory = registry["memory"]
    readers = [reader(node) for node in (nodes.head, nodes.one, nodes.two)]
    seen = [each.read_until.remote(100) for each in readers]
    for number in range(1, 101):
        memory.save(number, "/hot", overwrite=True)
        assert memory.load("/hot") == number
    for numbers in ray.get(seen, timeout=120):
        assert numbers == sorted(numbers)
    memory.delete("/hot")
    for each in readers:
        with pytest.raises(PathNotFoundError):
            ray.get(each.load.remote(), timeout=60)
    assert registry.status().invalidations > 0


@pytest.mark.parametrize("fault", ["paused", "killed"])
def test_a_change_waits_for_the_lease_of_a_node_whose_volume_does_not_hear(
    nodes: Nodes, registry: RayBackendRegistry, reader: Reading, fault: str
) -> None:
    reading = reader(nodes.one)
    pid = faults.process_of(victims(registry).volume(nodes.one))
    seen = reading.read_until.remote(2)
    if fault == "paused":
        faults.pause(pid, 3 * HELD)
    else:
        faults.kill(pid)
    start = time.monotonic()
    for number in (1, 2):
        registry["memory"].save(number, "/hot", overwrite=True)
    assert time.monotonic() - start < 2 * HELD + 20
    numbers = ray.get(seen, timeout=120)
    assert numbers == sorted(numbers)
    assert ray.get(reading.load.remote(), timeout=120) == 2
    assert ray.get(reading.keeps.remote(), timeout=120)


def test_a_reader_that_stopped_reads_nothing_older_when_it_goes_on(
    nodes: Nodes, registry: RayBackendRegistry, reader: Reading
) -> None:
    reading = reader(nodes.two)
    faults.pause(ray.get(reading.pid.remote()), 2.0)
    registry["memory"].save(1, "/hot", overwrite=True)
    assert ray.get(reading.load.remote(), timeout=60) == 1


def test_a_new_controller_waits_for_leases_that_it_does_not_know(
    nodes: Nodes, registry: RayBackendRegistry, reader: Reading
) -> None:
    readers = [reader(node) for node in (nodes.one, nodes.two)]
    # Not that of the follower, without which the tree would be lost.
    [other] = {nodes.one, nodes.two} - {registry.status().follower}
    faults.kill(faults.process_of(victims(registry).volume(other)))
    faults.kill(faults.process_of(victims(registry).controller()))
    registry["memory"].save(1, "/hot", overwrite=True)
    for each in readers:
        assert ray.get(each.load.remote(), timeout=120) == 1
        assert ray.get(each.keeps.remote(), timeout=120)


def test_a_store_that_began_anew_shows_nothing_of_the_one_before(
    nodes: Nodes, registry: RayBackendRegistry
) -> None:
    memory = registry["memory"]
    assert eventually(lambda: memory.load("/hot") == 0 and _hits(registry) > 0)
    other = RayBackendRegistry(registry._store, lifetime="detached")
    other["memory"].exists("/hot")
    other.shutdown()
    assert not other["memory"].exists("/hot")
    other["memory"].save(7, "/hot")
    registry.shutdown()
    assert memory.exists("/hot") is False


def _hits(registry: RayBackendRegistry) -> int:
    return registry.status().lease_hits


def test_large_values_are_read_by_reference_and_let_go(
    nodes: Nodes, registry: RayBackendRegistry, reader: Reading
) -> None:
    memory = registry["memory"]
    memory.save(np.full(4 * MIB, 3), "/large")
    reading = reader(nodes.one)
    assert ray.get(reading.keeps.remote("/large"), timeout=120)
    memory.delete("/large")
    with pytest.raises(PathNotFoundError):
        ray.get(reading.load.remote("/large"), timeout=60)


def test_a_deleted_tree_that_many_processes_keep_leaves_the_object_stores(
    nodes: Nodes, registry: RayBackendRegistry, reader: Reading
) -> None:
    memory = registry["memory"]
    before = used()
    paths = [f"/tree/{number}" for number in range(4)]
    memory.save_batch([np.full(4 * MIB, 3, np.uint8)] * 4, paths, parents=True)
    readers = [reader(node) for node in (nodes.one, nodes.two) * 4]
    kept = [process.keeps.remote(path) for process in readers for path in paths]
    assert all(ray.get(kept, timeout=WITHIN))
    assert used() >= before + 3 * 16 * MIB
    memory.delete_all("/tree")
    start = time.monotonic()
    assert eventually(lambda: used() <= before + MIB)
    assert time.monotonic() - start < 10.0  # 3 on a machine that has nothing else to do


def used() -> int:
    """Return the bytes in the object stores of all nodes."""
    found = [store_stats(node, WITHIN) for node in placement.nodes()]
    return sum(int(stats.object_store_bytes_used) for stats in found)


def test_threads_share_what_their_process_keeps(nodes: Nodes, registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    wrong: list[Any] = []

    def read() -> None:
        last = 0
        while last < 50:
            value = memory.load("/hot")
            if value < last:
                wrong.append((last, value))
            last = value

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 51):
        memory.save(number, "/hot", overwrite=True)
    for thread in threads:
        thread.join()
    assert wrong == []


def test_leases_can_be_left_out(nodes: Nodes) -> None:
    registry = RayBackendRegistry("without", read_leases=False)
    registry["memory"].save(1, "/x")
    for _ in range(20):
        assert registry["memory"].load("/x") == 1
    status = registry.status()
    assert (status.leases, status.lease_hits) == (0, 0)
    registry.shutdown()
