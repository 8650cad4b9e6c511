"""What the hosts of a store say of it, node by node."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray

from polystore.exceptions import StorageError
from polystore_ray.errors import HostLostError
from polystore_ray.rayapi.calls import wait_for
from polystore_ray.rayapi.errors import is_known_dead
from polystore_ray.rayapi.placement import MEMORY, nodes
from polystore_ray.rayapi.private import spilled_bytes
from polystore_ray.status import NodeStatus

__all__ = ["node_statuses"]

_ALL_WITHIN = 5.0  # seconds, for the answers of all nodes
_READY_WITHIN = 0.1  # seconds, for an answer that is ready


def node_statuses(hosts: dict[tuple[str, str], Any]) -> Iterator[NodeStatus]:
    """Ask hosts, given by backend and node, and yield what each node has of their store."""
    asked = {where: host.status.remote() for where, host in hosts.items()}
    ray.wait([*asked.values()], num_returns=len(asked), timeout=_ALL_WITHIN, fetch_local=False)
    until = time.monotonic() + _ALL_WITHIN
    known = {node["NodeID"]: node for node in nodes()}
    for node in sorted({node for _, node in hosts} & set(known)):
        volume: dict[str, Any] = {}
        hosted: Counter[str] = Counter()
        keys: list[str] = []
        silent: list[str] = []
        for key in sorted(key for key, where in hosts if where == node):
            try:
                facts = wait_for(asked[key, node], backend=key, timeout=_READY_WITHIN)
            except HostLostError as error:
                if not is_known_dead(error):
                    silent.append(key)
            except StorageError:
                silent.append(key)
            else:
                keys.append(key)
                if key == MEMORY:
                    volume = facts
                else:
                    hosted.update(facts)
        yield NodeStatus(
            node=node,
            host=known[node]["NodeManagerHostname"],
            backends=tuple(sorted(keys + silent)),
            spilled_bytes=spilled_bytes(known[node], max(0.1, until - time.monotonic())),
            silent=tuple(silent),
            **volume,
            **hosted,
        )
