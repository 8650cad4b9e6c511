"""A Ray cluster on one machine whose nodes, including the head, can be killed and replaced."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from polystore_ray.testing.needs import goes_without
from polystore_ray.testing.redis import RedisServer

__all__ = ["MIB", "Nodes"]

MIB = 2**20

_SPARE = 3 * 2**30  # bytes that the machine may use in addition to its present use
# Otherwise all nodes on this machine would react to the same lack of memory.
_UNWATCHED = {"RAY_memory_monitor_refresh_ms": "0"}
_OURS = "127.0.0.2"  # a driver finds its own node by the address


class Nodes:
    """A cluster whose control store is in Redis, so that the head can be lost too.

    This process is a driver on the second node, which is never lost. Ray's memory monitor runs on
    one of the other nodes at a time, never on the head.

    - `count`: the number of nodes; at least 3

    Raises `MissingProgramError` if Redis is not installed, and the environment does not say to skip
    it.

    - `head`: the id of the head
    - `watched`: the id of the node that kills workers when the free memory of the machine is 3 GiB
      less than when the node started
    - `can_lose_head`: whether the cluster outlives its head
    """

    def __init__(self, count: int) -> None:
        self._options: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 150 * MIB}
        self._redis = None if goes_without("redis-server") else RedisServer()
        self.can_lose_head = self._redis is not None
        with self._control_store() as store:
            self._head = {**self._options, **store, "include_dashboard": False}
            self._head["env_vars"] = _UNWATCHED
            self._cluster: Any = Cluster(initialize_head=True, head_node_args=self._head)
        self._address, _, self._port = self._cluster.address.partition(":")
        self.head: str = self._cluster.list_all_nodes()[0].node_id
        ours = self._cluster.add_node(**self._options, node_ip_address=_OURS, env_vars=_UNWATCHED)
        ray.init(
            address=self._cluster.address,
            _node_ip_address=_OURS,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
        self._ours: str = ours.node_id
        self.watched = ""
        self._others: dict[str, Any] = {}
        for _ in range(count - 2):
            self._add()

    def __iter__(self) -> Iterator[str]:
        return iter([self.head, self._ours, *self._others])

    def lose_one(self, chance: random.Random) -> str:
        """Kill a node, start a new one in its place, and return the id of the old one."""
        lost = chance.choice(sorted(self._others))
        self._cluster.remove_node(self._others.pop(lost), allow_graceful=False)
        if self.watched == lost:
            self.watched = ""
        self._add()
        return lost

    def lose_head(self, missing: float = 0.0) -> str:
        """Kill all processes of the head, start a new head, and return the id of the old one.

        The new head has the same address.

        - `missing`: the number of seconds without a head
        """
        lost = self.head
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)
        time.sleep(missing)
        with self._control_store():
            node = self._cluster.add_node(
                **self._head, node_ip_address=self._address, gcs_server_port=int(self._port)
            )
        self.head = node.node_id
        return lost

    def are_alive(self) -> bool:
        """Return whether the nodes that Ray knows are exactly these nodes."""
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]} == set(self)

    def close(self) -> None:
        """End the cluster."""
        ray.shutdown()
        self._cluster.shutdown()
        if self._redis is not None:
            self._redis.close()

    @contextmanager
    def _control_store(self) -> Iterator[dict[str, str]]:
        """Set the address of Redis for a starting head; yield its further arguments."""
        if self._redis is None:
            yield {}
            return
        os.environ["RAY_REDIS_ADDRESS"] = self._redis.address
        try:
            yield {"redis_password": self._redis.password}
        finally:
            del os.environ["RAY_REDIS_ADDRESS"]

    def _add(self) -> None:
        watches = not self.watched
        node = self._cluster.add_node(
            **self._options, env_vars=_monitoring() if watches else _UNWATCHED
        )
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
