"""What it costs to wait and to watch, and what those who do so cost the others."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from itertools import islice
from typing import Any

import ray
from measuring import Table, medians
from ray.cluster_utils import Cluster

from polystore_ray import RayBackendRegistry
from polystore_ray.testing.faults import Victims, kill, process_of

ROUNDS = 25
WAITERS = 10_000
PROCESSES = 10
SAVES = 5000
BEHIND = 0.001  # seconds from one save to the next
WATCHERS = 20
CHANGES = 10_000
LONG = 300.0
TABLE = Table("waiting", ROUNDS)


class Other:
    """A process that waits and watches."""

    def __init__(self, registry: RayBackendRegistry) -> None:
        self._memory = registry["memory"]
        self._memory.exists("/")

    def no_op(self) -> None:
        pass

    def load(self, path: str) -> float:
        self._memory.load(path, wait=LONG)
        return time.time()

    def wait(self, paths: list[str]) -> int:
        async def all_of_them() -> int:
            waiting = [self._memory.async_wait([path], timeout=LONG) for path in paths]
            return sum(len(ready) for ready, _ in await asyncio.gather(*waiting))

        return asyncio.run(all_of_them())

    def watch(self, changes: int) -> list[tuple[str, int]]:
        events = self._memory.watch("/watched", since=0, timeout=LONG)
        files = (event for event in events if event.type == "file")
        return [(event.path, event.number) for event in islice(files, changes)]


OTHER: Any = ray.remote(num_cpus=0)(Other)


def one_after_the_other(registry: RayBackendRegistry) -> None:
    """Measure from the start of a save to the return of a load that waits in another process."""
    memory = registry["memory"]
    other = OTHER.remote(registry)
    no_op = medians({"no_op": lambda _: ray.get(other.no_op.remote())}, 10, ROUNDS)["no_op"]
    saves, loads = [], []
    for number in range(ROUNDS):
        loading = other.load.remote(f"/one/{number}")
        time.sleep(0.05)
        start = time.time()
        memory.save(b"small", f"/one/{number}", parents=True)
        saves.append(time.time() - start)
        loads.append(ray.get(loading) - start)
    beyond = statistics.median(loads) - statistics.median(saves)
    TABLE.add("a load that waits returns, after the save does", beyond, "noop", no_op, "<= 2")


def many_waiters(registry: RayBackendRegistry) -> None:
    """Measure the processor time of the controller while many wait, beside the same without."""
    memory = registry["memory"]
    controller = process_of(Victims(registry._connect().store.namespace).controller())
    others = [OTHER.remote(registry) for _ in range(PROCESSES)]

    def save(top: str) -> tuple[float, float]:
        busy, start = processor_time(controller), time.monotonic()
        for number in range(SAVES):
            memory.save(number, f"/{top}/{number}")
            time.sleep(max(0.0, start + (number + 1) * BEHIND - time.monotonic()))
        took = time.monotonic() - start
        return (processor_time(controller) - busy) / took, SAVES / took

    for top in ("alone", "waited"):
        memory.ensure_directory(f"/{top}")
    alone, rate = save("alone")
    paths = [f"/waited/{number}" for number in range(WAITERS)]
    share = WAITERS // PROCESSES
    waiting = [
        other.wait.remote(paths[i * share : (i + 1) * share]) for i, other in enumerate(others)
    ]
    time.sleep(30)  # until all wait
    waited, waited_rate = save("waited")
    memory.save_batch([*range(SAVES, WAITERS)], paths[SAVES:])
    came = sum(ray.get(waiting, timeout=LONG))
    TABLE.add_amount(f"of {WAITERS:,} waiters came", f"{came:,}", f"{WAITERS:,}")
    TABLE.add_amount("saves a second without waiters", f"{rate:.0f}")
    TABLE.add_amount("saves a second with waiters", f"{waited_rate:.0f}")
    more = waited - alone
    TABLE.add_amount("cores that the controller takes more with waiters", f"{more:.2f}", "< 0.5")


def processor_time(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def watchers(registry: RayBackendRegistry) -> None:
    """Have many watch many changes, while the controller is lost twice.

    The store is one with ``replicas=2``, in which no acknowledged save is lost with a controller.
    """
    memory = registry["memory"]
    memory.ensure_directory("/watched")
    watching = [OTHER.remote(registry).watch.remote(CHANGES) for _ in range(WATCHERS)]
    victims = Victims(registry._connect().store.namespace)
    paths = [f"/watched/{number}" for number in range(CHANGES)]
    start = time.monotonic()
    for number, path in enumerate(paths):
        memory.save(number, path)
        if number in (CHANGES // 3, 2 * CHANGES // 3):
            kill(process_of(victims.controller()))
    found = ray.get(watching, timeout=LONG)
    in_order = sum([path for path, _ in seen] == paths for seen in found)
    took = time.monotonic() - start
    work = f"watchers of {WATCHERS} that saw {CHANGES:,} changes once, in order"
    TABLE.add_amount(work, f"{in_order}", f"{WATCHERS}")
    TABLE.add_amount("the changes, with two failovers", f"{took:.0f} s")


def main() -> None:
    arguments: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 256 * 2**20}
    head = {**arguments, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    cluster.add_node(**arguments)
    cluster.wait_for_nodes()
    for measure in (one_after_the_other, many_waiters, watchers):
        options: Any = {"replicas": 2} if measure is watchers else {}
        registry = RayBackendRegistry(measure.__name__, lifetime="detached", **options)
        registry["memory"].save(0, "/there")
        measure(registry)
        registry.shutdown()
    TABLE.write()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
