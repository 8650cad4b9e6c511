"""What several nodes and more than fits cost: adoption after a saver's death, and spilling."""

from __future__ import annotations

import logging
import os
import signal
import statistics
import time
from typing import Any

import numpy as np
import ray
from measuring import Table
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore_ray import RayBackendRegistry

MIB = 2**20
TRIALS = 7
TABLE = Table("nodes")


class Process:
    """A process on some node."""

    def pid(self) -> int:
        return os.getpid()

    def save(self, registry: RayBackendRegistry, path: str) -> None:
        registry["memory"].save(np.ones(16 * MIB, np.uint8), path, parents=True)

    def wait_for_report(self, registry: RayBackendRegistry, path: str) -> float:
        """Return how long Ray takes to tell this process that the owner of a value is dead."""
        start = time.perf_counter()
        [pin] = registry._connect().ask("read", [path]).pins
        try:
            ray.get(pin.ref)
        except ray.exceptions.OwnerDiedError:
            return time.perf_counter() - start
        raise AssertionError(path)

    def load(self, registry: RayBackendRegistry, path: str) -> float:
        start = time.perf_counter()
        assert registry["memory"].load(path)[-1] == 1
        return time.perf_counter() - start


def process(node: str) -> Any:
    made: Any = ray.remote(num_cpus=0)(Process)
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return made.options(scheduling_strategy=where).remote()


def adoption(registry: RayBackendRegistry, savers: str, readers: str) -> None:
    """Measure reads on one node of what a process on another saved before it was killed."""
    reader = process(readers)
    warm = process(readers)
    ray.get(warm.save.remote(registry, "/warm"))
    ray.get(reader.load.remote(registry, "/warm"))
    found: dict[str, list[float]] = {"living": [], "report": [], "first": [], "later": []}
    for trial in range(TRIALS):
        saver = process(savers)
        paths = [f"/{trial}/living", f"/{trial}/dead"]
        ray.get([saver.save.remote(registry, path) for path in paths])
        found["living"].append(ray.get(reader.load.remote(registry, paths[0])))
        os.kill(ray.get(saver.pid.remote()), signal.SIGKILL)
        while True:  # until Ray reports the death
            try:
                ray.get(saver.pid.remote())
            except ray.exceptions.RayActorError:
                break
        found["report"].append(ray.get(reader.wait_for_report.remote(registry, paths[1])))
        found["first"].append(ray.get(reader.load.remote(registry, paths[1])))
        found["later"].append(ray.get(reader.load.remote(registry, paths[1])))
    median = {name: statistics.median(seconds) for name, seconds in found.items()}
    TABLE.add("Ray's report that an owner is dead, elsewhere", median["report"], "1 s", 1.0)
    TABLE.add("first read of 16 MiB after it", median["first"], "1 s", 1.0, "< 1")
    beside = "of a living saver, first there"
    TABLE.add("first read of 16 MiB after it", median["first"], beside, median["living"])
    TABLE.add("the same, read again", median["later"], beside, median["living"], "< 1")


def beyond_capacity(capacity: int) -> None:
    """Save three times what the object store holds, and read all of it back."""
    registry = RayBackendRegistry("beyond")
    memory = registry["memory"]
    arrays = [np.full(16 * MIB, i, np.uint8) for i in range(3 * capacity // (16 * MIB) + 1)]
    start = time.perf_counter()
    for i, array in enumerate(arrays):
        memory.save(array, f"/{i}")
    saved = time.perf_counter() - start
    start = time.perf_counter()
    right = sum(np.array_equal(memory.load(f"/{i}"), array) for i, array in enumerate(arrays))
    loaded = time.perf_counter() - start
    size = len(arrays) * 16
    amount = f"{right} of {len(arrays)}"
    TABLE.add_amount(f"saved {size} MiB in a store of {capacity // MIB}: right", amount, "all")
    TABLE.add_amount("of these, saved a second", f"{size / saved:.0f} MiB")
    TABLE.add_amount("of these, loaded a second", f"{size / loaded:.0f} MiB")
    registry.shutdown()


def main() -> None:
    capacity = 512 * MIB
    options: dict[str, Any] = {"num_cpus": 2, "object_store_memory": capacity}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = [cluster.add_node(**options).node_id for _ in range(2)]
    cluster.wait_for_nodes()
    registry = RayBackendRegistry("nodes")
    adoption(registry, *nodes)
    registry.shutdown()
    beyond_capacity(capacity)
    ray.shutdown()
    cluster.shutdown()
    TABLE.write()


if __name__ == "__main__":
    main()
