"""What replicas and recovery cost: saves on two nodes, the journal, and the death of processes."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import ray
from measuring import Table, medians
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore_ray import RayBackendRegistry
from polystore_ray.rayapi.placement import store_namespace
from polystore_ray.testing.faults import Victims, kill, process_of

MIB = 2**20
ENTRIES = 100_000
MILLION = 1_000_000
TRIALS = 7
TABLE = Table("reliability")


@ray.remote(num_cpus=0)
class Other:
    """A process on another node."""

    def fetch(self, references: list[Any]) -> None:
        ray.get(references)


def _on(node: str) -> Any:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def replicas(elsewhere: str) -> None:
    """Compare saves on one node and on two."""
    once, twice = RayBackendRegistry("once")["memory"], RayBackendRegistry("twice", replicas=2)
    memory = twice["memory"]
    array = np.random.default_rng(0).integers(0, 255, 64 * MIB, np.uint8)

    def save(store: Any, value: Any, number: int) -> None:
        store.save(value, f"/{number % 2}", overwrite=True)

    def no_op(number: int) -> None:
        once.exists("/")

    for store in (once, memory):
        save(store, array, 0)
        save(store, array, 1)
    kind: Any = Other
    other = kind.options(scheduling_strategy=_on(elsewhere)).remote()

    def by_hand(number: int) -> None:
        ray.get(other.fetch.remote([ray.put(array)]))

    by_hand(0)
    large = medians(
        {
            "one": partial(save, once, array),
            "two": partial(save, memory, array),
            "by hand": by_hand,
        }
    )
    TABLE.add("save 64 MiB, replicas=2", large["two"], "replicas=1", large["one"], "< 2")
    by_ray = "ray.put, fetched elsewhere"
    TABLE.add("save 64 MiB, replicas=2", large["two"], by_ray, large["by hand"])
    small = medians(
        {
            "one": partial(save, once, b"small"),
            "two": partial(save, memory, b"small"),
            "question": no_op,
        },
        repeat=50,
    )
    TABLE.add("save 5 bytes, replicas=2", small["two"], "replicas=1", small["one"])
    TABLE.add("save 5 bytes, replicas=1", small["one"], "exists", small["question"])
    for registry in ("once", "twice"):
        RayBackendRegistry(registry).shutdown()


@ray.remote(num_cpus=0)
def change(registry: RayBackendRegistry, name: str, count: int) -> None:
    """Make many changes of the tree, one after another."""
    memory = registry["memory"]
    memory.ensure_directory(f"/{name}")
    for number in range(count):
        memory.save(number, f"/{name}/{number}")


def journal() -> None:
    """Compare the changes a second with and without a second copy of the tree."""
    stores = {
        "alone": RayBackendRegistry("alone"),
        "followed": RayBackendRegistry("followed", replicas=2, too_few_nodes="warn"),
    }
    clients, count = 4, 250

    def run(name: str, number: int) -> None:
        registry = stores[name]
        tasks = [change.remote(registry, f"{number}-{i}", count) for i in range(clients)]
        ray.get(tasks)

    for name in stores:
        run(name, -1)
    took = medians({name: partial(run, name) for name in stores}, rounds=TRIALS)
    rates = {name: clients * count / seconds for name, seconds in took.items()}
    TABLE.add_amount("changes of the tree a second, 4 clients", f"{rates['alone']:.0f}")
    part = rates["followed"] / rates["alone"]
    TABLE.add_amount("of these, with replicas=2", f"{part:.2f}", "> 0.6")
    for registry in stores.values():
        registry.shutdown()


def restart() -> None:
    """Kill the controller of a store of many entries, and ask the next one."""
    registry = RayBackendRegistry("restart", replicas=2)
    memory = registry["memory"]
    for first in range(0, ENTRIES, 1000):
        paths = [f"/{first}/{i}" for i in range(1000)]
        memory.save_batch([b""] * 1000, paths, parents=True)
    victims = Victims(store_namespace("restart", ray.get_runtime_context().get_job_id()))
    took = []
    for _ in range(TRIALS):
        time.sleep(3.0)  # a follower has it all again
        kill(process_of(victims.controller()))
        start = time.perf_counter()
        assert memory.exists(f"/{ENTRIES - 1000}/999")
        took.append(time.perf_counter() - start)
    TABLE.add(
        "controller killed, to the first answer of the next",
        statistics.median(took),
        "1 s",
        1.0,
        "< 5",
    )
    registry.shutdown()


def _latencies(memory: Any, until: Callable[[], bool]) -> list[float]:
    """Ask one thing after another until something is so; return the seconds that each took."""
    took: list[float] = []
    while not took or not until():
        for _ in range(20):
            start = time.perf_counter()
            memory.exists("/")
            took.append(time.perf_counter() - start)
    return sorted(took)


def new_follower() -> None:
    """Kill the follower of a store of a million entries, and ask while another takes its place."""
    registry = RayBackendRegistry("million")
    memory = registry["memory"]
    for first in range(0, MILLION, 10_000):
        paths = [f"/{first}/{i}" for i in range(10_000)]
        memory.save_batch([b""] * 10_000, paths, parents=True)
    victims = Victims(store_namespace("million", ray.get_runtime_context().get_job_id()))
    time.sleep(3.0)
    end = time.monotonic() + 10.0
    quiet = _latencies(memory, lambda: time.monotonic() > end)
    former = registry.status().follower or ""
    kill(process_of(victims.volume(former)))
    start = time.monotonic()
    found: dict[str, Any] = {}

    def has_follower() -> bool:
        found["follower"] = registry.status().follower
        return found["follower"] is not None and time.monotonic() - start > 2.0

    busy = _latencies(memory, has_follower)
    name = f"exists, of {MILLION} entries"
    for part, at in (("median", 0.5), ("p99", 0.99), ("longest", 1.0)):
        then, before = (took[min(len(took) - 1, int(at * len(took)))] for took in (busy, quiet))
        TABLE.add(f"{name}, {part} while another follows", then, f"{part} before", before)
    TABLE.add_amount("seconds until another follows", f"{time.monotonic() - start:.1f}")
    registry.shutdown()


@ray.remote(num_cpus=0)
def save_there(registry: RayBackendRegistry, path: str) -> None:
    """Save 16 MiB on the node of this task, and on another one."""
    registry["memory"].save(np.ones(16 * MIB, np.uint8), path)


def node_death(cluster: Cluster, options: dict[str, Any]) -> None:
    """Kill a node with one of two replicas, and read."""
    registry = RayBackendRegistry("death", replicas=2)
    memory = registry["memory"]
    memory.ensure_directory("/")
    after_death, after_report = [], []
    for trial in range(TRIALS):
        node = cluster.add_node(**options)
        cluster.wait_for_nodes()
        there = save_there.options(scheduling_strategy=_on(node.node_id))
        ray.get(there.remote(registry, f"/{trial}"))
        cluster.remove_node(node, allow_graceful=False)
        killed = time.perf_counter()
        while any(n["Alive"] and n["NodeID"] == node.node_id for n in ray.nodes()):
            time.sleep(0.01)
        reported = time.perf_counter()
        assert memory.load(f"/{trial}")[-1] == 1
        after_death.append(time.perf_counter() - killed)
        after_report.append(time.perf_counter() - reported)
    median = statistics.median
    TABLE.add("node killed, to the first read of a replica", median(after_death), "1 s", 1.0)
    TABLE.add("the same, from Ray's report on", median(after_report), "1 s", 1.0, "< 2")
    registry.shutdown()


def main() -> None:
    options: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 512 * MIB}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    elsewhere = cluster.add_node(**options).node_id
    cluster.wait_for_nodes()
    replicas(elsewhere)
    journal()
    restart()
    new_follower()
    node_death(cluster, options)
    ray.shutdown()
    cluster.shutdown()
    TABLE.write()


if __name__ == "__main__":
    main()
