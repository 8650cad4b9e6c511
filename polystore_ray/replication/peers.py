"""The volumes of a store on a Ray cluster, as its controllers call them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray

from polystore_ray.controller.host_table import HostTable
from polystore_ray.controller.journal import LEASE, Record
from polystore_ray.errors import CallTimeoutError, HostLostError, StoreUnavailableError
from polystore_ray.rayapi.calls import answer_of, wait_for
from polystore_ray.rayapi.errors import is_known_dead
from polystore_ray.rayapi.placement import MEMORY, named_hosts, nodes
from polystore_ray.replication.leadership import Joined

__all__ = ["RayPeers"]

_JOIN_WITHIN = 30.0  # seconds for volumes that are not known to be dead
_TAKE_WITHIN = 30.0  # seconds for a part of a state
_BYTES_PER_SECOND = 2e6  # of a state that is installed, at the least
_LOOKED_EVERY = 0.2  # seconds


class RayPeers:
    """See `polystore_ray.replication.leadership.Peers`.

    Parameters
    ----------
    namespace : str
        The store's Ray namespace.
    hosts : HostTable
        The store's hosts; those that live join it.
    """

    def __init__(self, namespace: str, hosts: HostTable) -> None:
        self._namespace = namespace
        self._hosts = hosts
        self._node = ray.get_runtime_context().get_node_id()
        self._taken = 0  # bytes of the state that is on its way

    def join(self, epoch: int) -> dict[str, Joined]:
        known = named_hosts(self._namespace)
        this = ray.get_runtime_context().current_actor
        deadline = time.monotonic() + _JOIN_WITHIN
        calls = {
            node: partial(host.join.remote, epoch, this)
            for (key, node), host in known.items()
            if key == MEMORY
        }
        asked = {node: call() for node, call in calls.items()}  # all at once
        joined: dict[str, Joined] = {}
        for node, call in calls.items():
            try:
                joined[node] = answer_of(
                    call,
                    backend=MEMORY,
                    timeout=max(0.0, deadline - time.monotonic()),
                    repeatable=True,
                    asked=asked[node],
                )
            except (HostLostError, CallTimeoutError) as error:
                if is_known_dead(error):
                    continue
                raise StoreUnavailableError(
                    f"the memory host of node {node} may have the newest copy of the tree, and "
                    f"does not answer",
                    backend=MEMORY,
                ) from error
        lives = {where: h for where, h in known.items() if where[0] != MEMORY or where[1] in joined}
        self._hosts.rejoin(lives)
        return joined

    def state(self, node: str, epoch: int) -> tuple[int, list[bytes]]:
        host = self._hosts.found(MEMORY, node)
        found: tuple[int, list[bytes]] = wait_for(
            host.state.remote(epoch), backend=MEMORY, timeout=10 * _TAKE_WITHIN
        )
        return found

    def candidates(self) -> list[str]:
        def drawbacks(node: str) -> tuple[bool, bool, bool, str]:
            leaves, has_none = node in self._hosts.leaving, self._hosts.found(MEMORY, node) is None
            return node == self._node, leaves, has_none, node

        return sorted((node["NodeID"] for node in nodes()), key=drawbacks)

    def could_follow_better(self, node: str) -> list[str]:
        poor = {self._node, *self._hosts.leaving}
        return [other for other in self.candidates() if other not in poor] if node in poor else []

    def take(self, node: str, epoch: int, first: bool, part: bytes) -> None:
        volume = self._hosts.host(MEMORY, node, b"")
        wait_for(volume.take.remote(epoch, first, part), backend=MEMORY, timeout=_TAKE_WITHIN)
        self._taken = len(part) + (0 if first else self._taken)

    def install(
        self, node: str, epoch: int, number: int, parts: int, meanwhile: Callable[[], None]
    ) -> None:
        volume = self._hosts.host(MEMORY, node, b"")
        installed = volume.install.remote(epoch, number, parts)
        deadline = time.monotonic() + _TAKE_WITHIN + self._taken / _BYTES_PER_SECOND
        while not ray.wait([installed], timeout=_LOOKED_EVERY)[0] and time.monotonic() < deadline:
            meanwhile()
        wait_for(installed, backend=MEMORY, timeout=0.0)

    def append(self, node: str, epoch: int, first: int, records: list[Record]) -> None:
        volume = self._volume(node)
        answer_of(
            lambda: volume.append.remote(epoch, first, records),
            backend=MEMORY,
            timeout=LEASE,
            repeatable=False,
        )

    def _volume(self, node: str) -> Any:
        volume = self._hosts.found(MEMORY, node)
        if volume is None:
            raise HostLostError(f"the memory host of node {node} has died", backend=MEMORY)
        return volume

    def forget(self, epoch: int, *, but: str) -> None:
        for (key, node), host in self._hosts.everywhere().items():
            if key == MEMORY and node != but:
                host.forget.remote(epoch)
