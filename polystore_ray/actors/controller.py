"""The actor of a controller: a store's tree, its hosts, and its end."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray

from polystore_ray.actors.base import LOOKED_AFTER_EVERY, StoreOf, as_actor, in_background
from polystore_ray.actors.events import EventsActor
from polystore_ray.actors.host import HostActor
from polystore_ray.actors.volume import VolumeActor
from polystore_ray.config.store import StoreOptions
from polystore_ray.controller.host_table import HostTable
from polystore_ray.controller.leases import Paths
from polystore_ray.controller.repair import carry_out
from polystore_ray.errors import HostBusyError, StoreUnavailableError
from polystore_ray.hosting.backend_host import MOST_CALLS
from polystore_ray.rayapi.calls import answer_of
from polystore_ray.rayapi.head_loss import lost_with_head
from polystore_ray.rayapi.metrics import counted
from polystore_ray.rayapi.placement import (
    CONTROLLER,
    EVENTS,
    MEMORY,
    actor_options,
    head_node,
    host_name,
    needs_of,
    nodes,
)
from polystore_ray.rayapi.private import control_store, draining_nodes, job_is_dead
from polystore_ray.replication.epochs import Succession, has_ended
from polystore_ray.replication.leadership import Leadership
from polystore_ray.replication.peers import RayPeers
from polystore_ray.wire.classes import Shipped, opened
from polystore_ray.wire.decoding import decode, encode
from polystore_ray.wire.messages import (
    ChangeId,
    Found,
    Leased,
    Pin,
    Renewal,
    Request,
    Wish,
    new_operation_id,
)

__all__ = ["ControllerActor", "controller_of"]

logger = logging.getLogger(__name__)

# A tree of a million entries has no cycles, and takes long to search for some.
_RARELY = (100_000, 50, 100)
_WAITS = 8  # calls that wait for a path in a thread of the controller
_REFUSING = 8  # calls that a host can refuse while it has as many as it may


def controller_of(store: StoreOf, *, start: bool = True) -> Any:
    """Return the handle of a store's controller, which is started where there is none.

    Worker nodes come and go, so that it is bound to the head node. Without `start`, one that is
    started ends again if the store has been shut down.
    """
    node = head_node() or ray.get_runtime_context().get_node_id()
    wanted = actor_options(store.namespace, CONTROLLER, node)
    return ControllerActor.options(get_if_exists=True, **wanted).remote(store, start)


class _Controller:
    """The controller of one store: its tree, its hosts, and its end."""

    def __init__(self, store: StoreOf, start: bool) -> None:
        gc.set_threshold(*_RARELY)
        if not start and has_ended(store.namespace):
            ray.actor.exit_actor()
        self._self = ray.get_runtime_context().current_actor
        self._hosts = HostTable(self._make, self._find, self._joined, self._lost, self._number)
        self._succession = Succession(store.namespace, store.options)
        self._peers = RayPeers(store.namespace, self._hosts)
        self._leadership = Leadership(self._succession, self._peers, self._release, self._tell)
        self._store = StoreOf(store.namespace, store.job, self._succession.options)
        self._controller = self._leadership.controller
        self._waits = threading.Semaphore(_WAITS)
        works = (self._hosts.watch, self._keep_up, self._lead, self._watch_cluster)
        for work in (*works, self._leadership.keep_follower):
            in_background(work)

    def call(self, request: bytes) -> bytes | Found | Leased:
        """Carry out a small request, which is one bytes object, as is an answer without pins."""
        answer: Found | Leased = self.handle(decode(request))
        found = answer.answer if isinstance(answer, Leased) else answer
        return answer if isinstance(found, Found) and found.pins else encode(answer)

    def handle(self, request: Request) -> Any:
        """Carry out a request that holds object references."""
        self._check_lives()
        return self._controller.handle(request)

    def _check_lives(self) -> None:
        self._leadership.use()
        if self._leadership.lost:
            raise StoreUnavailableError(self._leadership.lost, backend=MEMORY)

    def publish(
        self,
        pins: list[Pin],
        items: bytes,
        id_: ChangeId,
        within: float,
        wish: Wish | None,
        *volumes: tuple[str, str],
    ) -> Any:
        """Publish values whose objects these volumes have pinned; see `StoreController`.

        The references come from whoever owns them, not through a volume: measured in Ray 2.60,
        one in fifty that came through another borrower was lost when that one died.
        """
        return self.handle(Request("publish", (pins, decode(items), volumes), id_, within, wish))

    def about(self) -> tuple[StoreOptions, str]:
        """Return what the store was made with, and what tells it from others of its name."""
        return self._store.options, self._succession.store_id

    @ray.method(concurrency_group="hosts")
    def host(self, key: str, node: str, shipped: bytes) -> Any:
        """Return the host of a backend on a node; see `HostTable.host`.

        There is one event feed, where the controller is.
        """
        if key == EVENTS:
            node = ray.get_runtime_context().get_node_id()
        return self._hosts.host(key, node, shipped)

    @ray.method(concurrency_group="hosts")
    def hosts(self) -> tuple[dict[tuple[str, str], Any], int]:
        """Return all hosts, by backend and node, and how many were lost under this controller."""
        hosts = self._hosts.everywhere()
        return {where: hosts[where] for where in hosts if where[0] != EVENTS}, self._hosts.deaths

    @ray.method(concurrency_group="hosts")
    def lost_with_head(self) -> tuple[str, ...]:
        """Return what of the store would not outlive the loss of the head; see `head_loss`."""
        follower = self._leadership.journal.follower
        return lost_with_head(
            control_store(),
            head_node(),
            None if follower is None else follower.node,
            self._store.job,
            self._store.options.replicas or 1,
        )

    @ray.method(concurrency_group="hosts")
    def drain(self, node: str) -> int:
        """Have others hold what a node holds; return how many objects it holds alone still."""
        if node not in self._controller.state.drained:
            self._controller.note("drain", node)
        self._tell_of_nodes()
        return self._controller.held_alone_by(node)

    @ray.method(concurrency_group="hosts")
    def shipped_classes(self) -> dict[str, bytes]:
        """Return the classes of the hosted backends, by key."""
        return self._hosts.classes()

    @ray.method(concurrency_group="leases")
    def renew_lease(self, node: str, incarnation: str) -> Renewal | None:
        """Renew the read lease of a node; see `Leases.renew`."""
        return self._controller.renew_lease(node, incarnation)

    @ray.method(concurrency_group="events")
    def events(self, number: int, timeout: float) -> bytes:
        """Return the next events; see `StoreController.events_after`."""
        self._check_lives()
        return encode(self._controller.events_after(number, timeout))

    @ray.method(concurrency_group="waits")
    def call_when_there(self, request: bytes, path: str, timeout: float) -> Any:
        """Carry out a request, as `call` does, when a path exists, or in so many seconds.

        Raises `HostBusyError` if as many wait as may; the event feed has room for any number.
        """
        if not self._waits.acquire(blocking=False):
            raise HostBusyError("the controller holds no more calls that wait", backend=MEMORY)
        try:
            self._check_lives()
            self._controller.wait_until_there(path, timeout)
        finally:
            self._waits.release()
        return self.call(request)

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Wait for ever: whoever calls learns of this actor's death."""
        threading.Event().wait()

    def shutdown(self) -> None:
        """End every host, then this actor."""
        self._controller.end_leases()  # nobody reads what has ended
        self._succession.end()
        self._hosts.kill_all()
        in_background(self._leave)

    def _leave(self) -> None:
        time.sleep(0.1)  # lets the answer to `shutdown` out
        ray.kill(self._self)

    # In the background

    def _watch_cluster(self) -> None:
        while True:
            try:
                if self._store.job is not None and job_is_dead(self._store.job):
                    self.shutdown()
                    return
                self._tell_of_nodes()
                counted(self._store.name, self._controller.status())
            except Exception:
                # Whatever it is, the store must not outlive its job because nobody looks any more.
                logger.warning("the cluster could not be asked; asking again", exc_info=True)
            time.sleep(LOOKED_AFTER_EVERY)

    def _tell_of_nodes(self) -> None:
        leaving = self._controller.state.drained | draining_nodes()
        self._hosts.leaving = leaving
        self._controller.nodes_changed({node["NodeID"] for node in nodes()}, leaving)

    def _lead(self) -> None:
        self._leadership.ship()
        logger.warning("another controller has taken over; this one ends")
        ray.kill(self._self)

    def _keep_up(self) -> None:
        replicas = self._store.options.replicas or 1
        failed = 0
        while True:
            repair = None
            try:
                repair = self._controller.next_repair(LOOKED_AFTER_EVERY, failed)
                if repair is not None:
                    carry_out(repair, self._controller, self._hosts, replicas)
                failed = 0
            except Exception:
                # Whatever it is, nobody waits for it, and it is tried again.
                failed += 1
                logger.warning("%s failed; trying again", type(repair).__name__, exc_info=True)
                time.sleep(LOOKED_AFTER_EVERY)

    # For the table of hosts and the tree

    def _make(self, key: str, node: str, shipped: bytes, *, another: bool = False) -> Any:
        name = host_name(key, node, new_operation_id() if another else "")
        options = actor_options(self._store.namespace, name, node)
        if key == MEMORY:
            return VolumeActor.options(**options).remote(self._self, self._store, controller_of)
        if key == EVENTS:
            return EventsActor.options(**options).remote(self._self, self._store, controller_of)
        calls = _REFUSING + (self._store.options.host_calls or MOST_CALLS)
        options |= {"max_concurrency": calls} | needs_of(key, node, opened(shipped).needs)
        return HostActor.options(**options).remote(
            self._self, self._store, controller_of, key, shipped
        )

    def _find(self, key: str, node: str) -> Any:
        return self._peers.find(key, node, self._succession.epoch)

    def _number(self, key: str, cls: Shipped) -> int:
        if not cls.fingerprint:
            return 0  # every node has it
        version = key, cls.origin, cls.sequence, cls.fingerprint
        return int(self._controller.note("class_arrived", *version))

    def _joined(self, node: str, incarnation: str) -> None:
        self._controller.note("volume_joined", node, incarnation)

    def _lost(self, node: str) -> None:
        self._leadership.journal.lose(node)
        self._controller.note("volume_lost", node)

    def _release(self, node: str, pins: list[str]) -> None:
        volume = self._hosts.found(MEMORY, node)
        if volume is not None:
            volume.release.remote(pins)

    def _tell(self, node: str, term: int, paths: Paths) -> Callable[[float], bool]:
        volume = self._hosts.found(MEMORY, node)
        if volume is None:
            return lambda _: False
        count = partial(volume.count.remote, term, paths)
        asked = count()  # of all nodes at once

        def has_heard(timeout: float) -> bool:
            heard = answer_of(count, backend=MEMORY, timeout=timeout, repeatable=True, asked=asked)
            return bool(heard)

        return has_heard


_GROUPS = {"events": 2, "hosts": 8, "leases": 1, "waits": _WAITS + 1, "watch": 1}
ControllerActor = as_actor(concurrency_groups=_GROUPS, max_concurrency=16)(_Controller)
