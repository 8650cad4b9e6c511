"""The nodes of a Ray cluster on one machine, which come and go."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

__all__ = ["MIB", "Nodes"]

MIB = 2**20

_SPARE = 3 * 2**30  # bytes that the machine may use beside what it uses now
# The nodes of one machine would all see, and fight, the same lack of memory.
_UNWATCHED = {"RAY_memory_monitor_refresh_ms": "0"}


class Nodes:
    """A cluster of which one node at a time, never the first, has Ray's memory monitor on.

    Parameters
    ----------
    count : int
        How many nodes; at least 2.

    Attributes
    ----------
    head : str
        The id of the first node.
    watched : str
        The id of the node that kills workers when the machine has 3 GiB less free memory than
        when the node was made.
    """

    def __init__(self, count: int) -> None:
        self._options: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 150 * MIB}
        head = {**self._options, "include_dashboard": False, "env_vars": _UNWATCHED}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
        self.head: str = ray.get_runtime_context().get_node_id()
        self.watched = ""
        self._others: dict[str, Any] = {}
        for _ in range(count - 1):
            self._add()

    def __iter__(self) -> Any:
        return iter([self.head, *self._others])

    def lose_one(self, chance: random.Random) -> str:
        """End a node without grace, put a new one in its place, and return the id of the old."""
        lost = chance.choice(sorted(self._others))
        self._cluster.remove_node(self._others.pop(lost), allow_graceful=False)
        if self.watched == lost:
            self.watched = ""
        self._add()
        return lost

    def are_alive(self) -> bool:
        """Tell whether Ray knows of these nodes and of no others."""
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]} == set(self)

    def close(self) -> None:
        """End the cluster."""
        ray.shutdown()
        self._cluster.shutdown()

    def _add(self) -> None:
        watches = not self.watched
        node = self._cluster.add_node(
            **self._options, env_vars=_monitoring() if watches else _UNWATCHED
        )
        self._cluster.wait_for_nodes()
        self._others[node.node_id] = node
        if watches:
            self.watched = node.node_id


def _monitoring() -> dict[str, str]:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    facts = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(":") for x in lines)
    }
    total = facts["MemTotal"]
    most = (total - facts["MemAvailable"] + _SPARE) / total
    return {
        "RAY_memory_usage_threshold": f"{min(most, 0.95):.4f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
