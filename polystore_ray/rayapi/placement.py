"""Where actors run and how they are named: namespaces, names and nodes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from glob import escape, glob
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polystore_ray.config.nodes import Node
from polystore_ray.errors import NodeNotFoundError
from polystore_ray.rayapi.private import session_directory

__all__ = [
    "CONTROLLER",
    "EVENTS",
    "MEMORY",
    "actor_options",
    "board_path",
    "head_node",
    "host_name",
    "is_alive",
    "known_nodes",
    "named_hosts",
    "near_node",
    "needs_of",
    "nodes",
    "object_store_bytes",
    "store_namespace",
    "this_process",
]

CONTROLLER = "controller"
MEMORY = "memory"
EVENTS = "events of memory"
"""The key under which a store hosts its event feed; that of no backend."""

_ANOTHER = "~"


def this_process() -> tuple[str, str]:
    """Return the ids of the node and of the job that this process belongs to.

    Together they tell one connection to a cluster from the next.
    """
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


def board_path(namespace: str, node: str, incarnation: str) -> str:
    """Return a free path for the lease board of a volume; boards of former ones there are removed.

    Whoever reads a board that is removed keeps it until its lease has run out.
    """
    store = hashlib.sha256(namespace.encode()).hexdigest()[:16]
    start = os.path.join(session_directory(), "polystore", f"{store}-{node}-")
    for former in glob(escape(start) + "*"):
        with suppress(FileNotFoundError):
            os.unlink(former)
    return start + incarnation


def nodes() -> list[dict[str, Any]]:
    """Return the nodes that are alive, as `ray.nodes` lists them."""
    return [node for node in ray.nodes() if node["Alive"]]


def known_nodes() -> list[Node]:
    """Return the nodes that are alive, with all their names."""
    return [
        Node(
            node["NodeID"],
            tuple(
                dict.fromkeys(
                    node[name] for name in ("NodeManagerHostname", "NodeManagerAddress", "NodeName")
                )
            ),
            node["Labels"],
            node["Resources"],
        )
        for node in nodes()
    ]


def head_node() -> str | None:
    """Return the id of the head node, which stays as long as its cluster, if it is marked."""
    return next((n["NodeID"] for n in nodes() if "node:__internal_head__" in n["Resources"]), None)


def is_alive(node: str) -> bool:
    """Return whether a node is in the cluster."""
    return any(known["NodeID"] == node for known in nodes())


def object_store_bytes(node: str) -> int:
    """Return the size of a node's object store."""
    for known in nodes():
        if known["NodeID"] == node:
            return int(known["Resources"]["object_store_memory"])
    raise NodeNotFoundError(f"node {node} is not in the cluster")


def store_namespace(store: str, job: str | None) -> str:
    """Return the Ray namespace of a store's actors; one of its own for each job it is scoped to."""
    return f"polystore/{store}" if job is None else f"polystore/{store}/{job}"


def host_name(key: str, node: str, another: str = "") -> str:
    """Return the name of the actor that hosts a backend on a node, or of one that replaces it."""
    return f"{key}{_ANOTHER}{another}@{node}" if another else f"{key}@{node}"


def needs_of(key: str, node: str, needs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a backend needs as options of the actor that hosts it on a node.

    Raises `NodeNotFoundError` if the node lacks what the backend needs: Ray would let the actor
    wait for ever. The error lists the nodes that have it.
    """
    known = known_nodes()
    lacks = {this.id: this.lacks(needs) for this in known}
    if lacks.get(node):
        able = "; ".join(str(this) for this in known if not lacks[this.id])
        raise NodeNotFoundError(
            f"the backend needs {lacks[node]}, which node {node} lacks; a key such as "
            f"{key}@NODE names one that has it: {able or 'there is none'}",
            backend=key,
        )
    # The node is chosen already, and Ray takes only one strategy.
    return {name: value for name, value in needs.items() if name != "label_selector"}


def named_hosts(namespace: str) -> dict[tuple[str, str], Any]:
    """Return the hosts of a store that Ray knows, by backend and node; some may be dying."""
    found: dict[tuple[str, str], Any] = {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        name, at, node = actor["name"].rpartition("@")
        key = name.partition(_ANOTHER)[0]
        if actor["namespace"] == namespace and at:
            with suppress(ValueError):  # it has ended since
                found[key, node] = ray.get_actor(actor["name"], namespace)
    return found


def near_node(node: str) -> NodeAffinitySchedulingStrategy:
    """Return the scheduling strategy for a task that had best run on a node."""
    return NodeAffinitySchedulingStrategy(node, soft=True)


def actor_options(namespace: str, name: str, node: str) -> dict[str, Any]:
    """Return the options of a store's actor.

    It stays on its node (measured in Ray 2.60: a soft affinity puts an actor anywhere). It is
    detached, since it must outlive the process that happened to need it first; it takes no
    CPU; and it is not restartable, since Ray's memory monitor picks restartable actors first. Ray
    keeps no events of its calls: they would take the head's memory, 4 KiB for each call.
    """
    return {
        "name": name,
        "namespace": namespace,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": 0,
        "enable_task_events": False,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }
