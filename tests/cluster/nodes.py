"""A cluster of several nodes in one machine, of which tests take parts away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore_ray import RayBackendRegistry

MIB = 2**20
WITHIN = 120.0  # seconds; on a loaded machine Ray takes a minute to notice a death
# A node is dead after five failed checks, one each three seconds by default.
NOTICED_SOON = {"health_check_period_ms": 500}


class Nodes:
    """A cluster with a head and two nodes, on each of which code can be run."""

    def __init__(self) -> None:
        arguments: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 256 * MIB}
        head = {**arguments, "include_dashboard": False, "_system_config": NOTICED_SOON}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        head_node: Any = self.cluster.head_node
        self.head = str(head_node.node_id)
        self.arguments = arguments
        self.added: dict[str, Any] = {}
        self.connect()
        self.one, self.two = self.add(), self.add()

    def connect(self) -> None:
        """Connect this process to the head, as a job of its own."""
        ray.init(address=self.cluster.address, log_to_driver=False)
        assert ray.get_runtime_context().get_node_id() == self.head

    def add(self, **more: Any) -> str:
        node = self.cluster.add_node(**self.arguments, **more)
        self.cluster.wait_for_nodes()
        self.added[node.node_id] = node
        return str(node.node_id)

    def remove(self, node: str) -> None:
        """Take a node away without grace."""
        self.cluster.remove_node(self.added.pop(node), allow_graceful=False)

    def remove_others(self) -> None:
        """Take all nodes away but the three, as a test that failed leaves them."""
        for node in self.added.keys() - {self.one, self.two}:
            self.remove(node)

    def run(self, node: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return ray.get(self.start(node, function, *arguments), timeout=120)

    def start(self, node: str, function: Callable[..., Any], *arguments: Any) -> Any:
        # A process of its own, which can be lost alone.
        task: Any = ray.remote(num_cpus=0, max_calls=1)(function)
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        return task.options(scheduling_strategy=where).remote(*arguments)


def save(registry: RayBackendRegistry, path: str, number: int) -> int:
    registry["memory"].save(np.full(MIB, number), path)
    return os.getpid()


def first(registry: RayBackendRegistry, path: str) -> tuple[int, bool]:
    array = registry["memory"].load(path)
    return int(array[0]), array.flags.writeable or array.flags.owndata


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def kill(pid: int) -> None:
    """Kill a process and wait for its end; one that owns objects does not end by itself."""
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
