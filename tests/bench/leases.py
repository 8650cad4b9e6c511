"""What reads without a call take, and what they cost whoever changes what others keep."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from measuring import ROUNDS, Table, medians
from memory import REDIS_PORT, Noop, actor, call, redis_server
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore_ray import RayBackendRegistry
from polystore_ray.controller.leases import HELD
from polystore_ray.testing import faults

MIB = 2**20
CALLS = 50  # in one round
READS = 2000
CLIENTS = 16
TABLE = Table("leases")


class Client:
    """Another process, which reads until it needs no call."""

    def __init__(self, registry: RayBackendRegistry, path: str) -> None:
        self._registry = registry
        self._memory = registry["memory"]
        self._path = path

    def keep(self) -> None:
        """Return when a read needs no call."""
        while True:
            before = self._registry.status().lease_hits
            self._memory.load(self._path)
            if self._registry.status().lease_hits > before:
                return

    def load(self, count: int) -> None:
        for _ in range(count):
            self._memory.load(self._path)

    def load_of(self, registry: RayBackendRegistry, count: int) -> None:
        memory = registry["memory"]
        for _ in range(count):
            memory.load("/small")

    def call(self, noop: Any, count: int) -> None:
        for _ in range(count):
            call(noop, "call", b"x")

    def save(self, where: str, count: int) -> None:
        for number in range(count):
            self._memory.save(b"x", f"{where}/{number}", parents=True)


def client(registry: RayBackendRegistry, path: str, node: str) -> Any:
    made: Any = ray.remote(num_cpus=0)(Client)
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    kept = made.options(scheduling_strategy=where).remote(registry, path)
    ray.get(kept.keep.remote())
    return kept


def repeated(registry: RayBackendRegistry, noop: Any, redis: str | None) -> None:
    memory = registry["memory"]
    value = np.zeros(1024, np.uint8)
    memory.save(value, "/small")
    memory.save(np.zeros(256 * MIB, np.uint8), "/large")
    work: dict[str, Callable[[int], Any]] = {
        "load": lambda _: memory.load("/small"),
        "exists": lambda _: memory.exists("/small"),
        "stat": lambda _: memory.stat("/small"),
    }
    if redis is not None:
        import redis as client

        connection = client.Redis(port=REDIS_PORT)
        connection.set("/small", value.tobytes())
        work["Redis GET"] = lambda _: connection.get("/small")
    _until_kept(registry, lambda: [memory.load("/small"), memory.stat("/small")])
    found = medians(work, READS)
    get = found.pop("Redis GET", None)
    for name, seconds in found.items():
        work_ = f"{name} of 1 KiB, again"
        TABLE.add(work_, seconds, "the limit of 20 us", 20e-6, "<= 1")
        if get is not None:
            TABLE.add(work_, seconds, "Redis GET, loopback", get, "<= 0.1")
    _until_kept(registry, lambda: memory.load("/large"))
    found = medians(
        {"noop": lambda _: call(noop, "call", b"x"), "load": lambda _: memory.load("/large")}, CALLS
    )
    TABLE.add("load of 256 MiB, again", found["load"], "noop", found["noop"], "<= 0.5")
    memory.delete("/large")


def _until_kept(registry: RayBackendRegistry, read: Callable[[], object]) -> None:
    while True:
        before = registry.status().lease_misses
        read()
        if registry.status().lease_misses == before:
            return


def first(registry: RayBackendRegistry, without: RayBackendRegistry) -> None:
    """Compare reads and saves of new paths with those of a store without leases."""
    one, other, value = registry["memory"], without["memory"], np.zeros(1024, np.uint8)
    found = medians(
        {
            "save": lambda i: one.save(value, f"/first/{i}", parents=True),
            "save without": lambda i: other.save(value, f"/first/{i}", parents=True),
            "load": lambda i: one.load(f"/first/{i}"),
            "load without": lambda i: other.load(f"/first/{i}"),
        },
        CALLS,
    )
    for name in ("save", "load"):
        beside = "a store without leases"
        TABLE.add(
            f"first {name} of a path", found[name], beside, found[f"{name} without"], "<= 1.05"
        )


def together(registry: RayBackendRegistry, noop: Any, node: str) -> None:
    """Compare the reads of many processes with the calls that one actor answers."""
    clients = [client(registry, "/small", node) for _ in range(CLIENTS)]
    found = medians(
        {
            "noop": lambda _: ray.get([each.call.remote(noop, CALLS) for each in clients]),
            "load": lambda _: ray.get([each.load.remote(100 * READS) for each in clients]),
        }
    )
    calls, loads = found["noop"] / CALLS, found["load"] / READS / 100
    work = f"a load in each of {CLIENTS} processes, at once"
    TABLE.add(work, loads, "noop, as many", calls, "<= 0.033")
    for each in clients:
        ray.kill(each)


def overwrites(registry: RayBackendRegistry, noop: Any, nodes: list[str]) -> None:
    """Measure the change of a path that one node keeps, or three do, or one that is paused."""
    memory, value = registry["memory"], np.zeros(1024, np.uint8)
    for count, limit in ((1, "<= 2.2"), (3, "<= 3")):
        memory.save(value, f"/kept{count}")
        readers = [client(registry, f"/kept{count}", node) for node in nodes[:count]]
        times: dict[str, list[float]] = {"noop": [], "overwrite": []}
        for _ in range(CALLS):
            ray.get([reader.keep.remote() for reader in readers])
            start = time.perf_counter()
            memory.save(value, f"/kept{count}", overwrite=True)
            times["overwrite"].append(time.perf_counter() - start)
            start = time.perf_counter()
            call(noop, "call", b"x")
            times["noop"].append(time.perf_counter() - start)
        found = {name: sorted(each)[CALLS // 2] for name, each in times.items()}
        of = "its own node keeps" if count == 1 else f"{count} nodes keep"
        TABLE.add(
            f"overwrite of a path that {of}", found["overwrite"], "noop", found["noop"], limit
        )
        if count == 3:
            follower = registry.status().follower  # which must hear whatever is changed
            _paused(registry, readers, next(node for node in nodes[1:] if node != follower))
        for reader in readers:
            ray.kill(reader)


def _paused(registry: RayBackendRegistry, readers: list[Any], node: str) -> None:
    found: list[float] = []
    victims = faults.Victims(registry._connect().store.namespace)
    process = faults.process_of(victims.volume(node))
    for _ in range(3):
        ray.get([reader.keep.remote() for reader in readers])
        faults.pause(process, HELD + 1)
        start = time.perf_counter()
        registry["memory"].save(b"x", "/kept3", overwrite=True)
        found.append(time.perf_counter() - start)
        time.sleep(HELD + 2)
    TABLE.add("the same, where a node does not hear", sorted(found)[1], "the lease", HELD, "<= 1")


def changes(registry: RayBackendRegistry, noop: Any, node: str) -> None:
    """Compare the changes that a controller makes with the calls that an empty actor answers."""
    for count in (1, 4, 16):
        clients = [client(registry, "/small", node) for _ in range(count)]
        found = medians({"noop": partial(_calls, clients, noop), "save": partial(_saves, clients)})
        work = f"new small values by {count} at once"
        TABLE.add(
            work, found["save"] / CALLS / count, "noop", found["noop"] / CALLS / count, "<= 1.25"
        )
        for each in clients:
            ray.kill(each)


def controllers_time(
    registry: RayBackendRegistry, without: RayBackendRegistry, noop: Any, node: str
) -> None:
    """Measure the processor time of the controller's process for one call, with many clients."""
    for work, store in (("load", without), ("save", registry)):
        clients = [client(registry, "/small", node) for _ in range(CLIENTS)]
        victims = faults.Victims(store._connect().store.namespace)
        process = faults.process_of(victims.controller())
        times: dict[str, list[float]] = {"noop": [], work: []}
        for round_ in range(ROUNDS):
            start = time.perf_counter()
            _calls(clients, noop, 0)
            times["noop"].append((time.perf_counter() - start) / CALLS / CLIENTS)
            before = _processor_time(process)
            if work == "save":
                _saves(clients, ROUNDS + round_)
            else:
                ray.get([each.load_of.remote(store, CALLS) for each in clients])
            times[work].append((_processor_time(process) - before) / CALLS / CLIENTS)
        found = {name: sorted(each)[ROUNDS // 2] for name, each in times.items()}
        work_ = f"a small {work} in the controller, processor time"
        TABLE.add(work_, found[work], "noop, as many", found["noop"])
        for each in clients:
            ray.kill(each)


def _processor_time(process: int) -> float:
    """Return the seconds that a process has run, without those of waiting."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _calls(clients: list[Any], noop: Any, _: int) -> None:
    ray.get([each.call.remote(noop, CALLS) for each in clients])


def _saves(clients: list[Any], i: int) -> None:
    where = f"/{len(clients)}/{i}"
    ray.get([each.save.remote(f"{where}/{n}", CALLS) for n, each in enumerate(clients)])


def main() -> None:
    arguments: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 200 * MIB}
    head = {**arguments, "object_store_memory": 1024 * MIB, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = [ray.get_runtime_context().get_node_id()]
    nodes += [str(cluster.add_node(**arguments).node_id) for _ in range(2)]
    cluster.wait_for_nodes()
    noop = actor(Noop)
    call(noop, "call", b"x")
    registry, without = RayBackendRegistry("leases"), RayBackendRegistry("no", read_leases=False)
    with redis_server() as redis:
        repeated(registry, noop, redis)
    first(registry, without)
    together(registry, noop, nodes[0])
    overwrites(registry, noop, nodes)
    changes(registry, noop, nodes[0])
    without["memory"].save(np.zeros(1024, np.uint8), "/small")
    controllers_time(registry, without, noop, nodes[0])
    registry.shutdown()
    without.shutdown()
    ray.shutdown()
    cluster.shutdown()
    TABLE.write()


if __name__ == "__main__":
    main()
