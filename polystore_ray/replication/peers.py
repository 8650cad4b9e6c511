"""The volumes of a store on a Ray cluster, as its controllers call them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import ray

from polystore_ray.controller.host_table import HostTable
from polystore_ray.controller.journal import LEASE, Record
from polystore_ray.deadline import Deadline
from polystore_ray.errors import CallTimeoutError, HostLostError, StoreUnavailableError
from polystore_ray.rayapi.calls import answer_of, wait_for
from polystore_ray.rayapi.errors import is_known_dead
from polystore_ray.rayapi.placement import MEMORY, host_name, named_hosts, nodes
from polystore_ray.wire.messages import Joined, OutOfStepError

__all__ = ["RayPeers"]

_JOIN_WITHIN = 30.0  # seconds for volumes that are not known to be dead
_TAKE_WITHIN = 30.0  # seconds for a part of a state
_STATE_WITHIN = 300.0  # seconds for a whole state
_BYTES_PER_SECOND = 2e6  # of a state that is installed, at the least


class RayPeers:
    """See `polystore_ray.replication.leadership.Peers`.

    - `namespace`: the store's Ray namespace
    - `hosts`: the store's hosts; those that live join it
    """

    def __init__(self, namespace: str, hosts: HostTable) -> None:
        self._namespace = namespace
        self._hosts = hosts
        context = ray.get_runtime_context()
        self._this, self._node = context.current_actor, context.get_node_id()

    def state(self, node: str, epoch: int) -> tuple[int, list[bytes]] | None:
        volume = self.find(MEMORY, node, epoch)
        if volume is None:
            return None
        call = partial(volume.state.remote, epoch)
        found: tuple[int, list[bytes]] | None = None
        with suppress(OutOfStepError):  # a later volume of this node, which has no copy
            found = _unless_dead(node, call, Deadline(_STATE_WITHIN))
        return found

    def join(self, epoch: int) -> dict[str, Joined]:
        hosts = named_hosts(self._namespace)
        calls = {
            node: partial(host.join.remote, epoch, self._this)
            for (key, node), host in hosts.items()
            if key == MEMORY
        }
        deadline = Deadline(_JOIN_WITHIN)
        asked = {node: call() for node, call in calls.items()}  # all at once
        joined: dict[str, Joined] = {}
        for node, call in calls.items():
            answer = _unless_dead(node, call, deadline, asked[node])
            if answer is None:
                del hosts[MEMORY, node]
            else:
                joined[node] = answer
        self._hosts.add(hosts)
        return joined

    def find(self, key: str, node: str, epoch: int) -> Any:
        """Return a host of another controller; a volume turns to this one; None if it has ended."""
        try:
            host: Any = ray.get_actor(host_name(key, node), self._namespace)
        except ValueError:
            return None
        if key == MEMORY:
            join = partial(host.join.remote, epoch, self._this)
            host = host if _unless_dead(node, join, Deadline(_JOIN_WITHIN)) else None
        return host

    def candidates(self, present: str | None) -> list[str]:
        poor = {self._node, *self._hosts.leaving}
        if present is not None and present not in poor:
            return []

        def drawbacks(node: str) -> tuple[bool, bool, bool, str]:
            leaves, has_none = node in self._hosts.leaving, self._hosts.found(MEMORY, node) is None
            return node == self._node, leaves, has_none, node

        able = [node["NodeID"] for node in nodes()]
        return sorted((n for n in able if present is None or n not in poor), key=drawbacks)

    def install(self, node: str, epoch: int, number: int, state: Iterable[bytes]) -> None:
        volume = self._hosts.host(MEMORY, node, b"")
        parts = size = 0
        for part in state:
            taken = volume.take.remote(epoch, parts == 0, part)
            wait_for(taken, backend=MEMORY, timeout=_TAKE_WITHIN)
            parts, size = parts + 1, size + len(part)
        installed = volume.install.remote(epoch, number, parts)
        wait_for(installed, backend=MEMORY, timeout=_TAKE_WITHIN + size / _BYTES_PER_SECOND)

    def append(self, node: str, epoch: int, first: int, records: list[Record]) -> None:
        volume = self._hosts.found(MEMORY, node)
        if volume is None:
            raise HostLostError(f"the memory host of node {node} has died", backend=MEMORY)
        appended = partial(volume.append.remote, epoch, first, records)
        answer_of(appended, backend=MEMORY, timeout=LEASE, repeatable=False)

    def forget(self, epoch: int, *, but: str) -> None:
        for (key, node), host in self._hosts.everywhere().items():
            if key == MEMORY and node != but:
                host.forget.remote(epoch)


def _unless_dead(
    node: str, call: Callable[[], Any], deadline: Deadline, asked: Any = None
) -> Any | None:
    """Return the answer of a volume; None if it has died."""
    try:
        return answer_of(call, backend=MEMORY, timeout=deadline, repeatable=True, asked=asked)
    except (HostLostError, CallTimeoutError) as error:
        if is_known_dead(error):
            return None
        raise StoreUnavailableError(
            f"the memory host of node {node} may have the newest copy of the tree, and does not "
            f"answer",
            backend=MEMORY,
        ) from error
