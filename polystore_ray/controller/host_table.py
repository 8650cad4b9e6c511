"""The hosts of a store, as its controller keeps them: made on first use, watched, made anew."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import exceptions as ray_exceptions

from polystore.exceptions import StorageError
from polystore_ray.deadline import Deadline
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.rayapi.calls import wait_for
from polystore_ray.rayapi.errors import is_known_dead, translated
from polystore_ray.rayapi.placement import EVENTS, MEMORY, is_alive, nodes
from polystore_ray.rayapi.private import actor_id
from polystore_ray.wire.classes import Shipped, opened
from polystore_ray.wire.messages import Pin

__all__ = ["HostTable"]

logger = logging.getLogger(__name__)

_WATCHED_EVERY = 1.0  # seconds until a new host is watched too
_ENDS_WITHIN = 10.0  # seconds, for a host to say what it is, or to close its backend
_COMES_WITHIN = 1.0  # seconds, for an answer that is ready
_WITHOUT_CLASS = (EVENTS, MEMORY)  # hosts that have no class of a backend
_ANSWER_WITHIN = 60.0  # seconds, for a volume; the upkeep that waits for it can try again


class HostTable:
    """Which actor hosts which backend on which node.

    - `make`: start the actor of a backend on a node: ``make(key, node, shipped)``, with the class
      of a backend unless it has none; with ``another=True``, one that follows another
    - `find`: return the actor of a backend on a node, ``find(key, node)``, which another controller
      started without the knowledge of this one; None if it has ended
    - `joined`: told the node and the id of each new volume, before anybody can use it
    - `lost`: told the node of a volume that has died, once it is not in the table any more
    - `number`: return the number of a version of a class, ``number(key, shipped)``; later ones have
      higher
    """

    def __init__(
        self,
        make: Callable[..., Any],
        find: Callable[[str, str], Any],
        joined: Callable[[str, str], None],
        lost: Callable[[str], None],
        number: Callable[[str, Shipped], int],
    ) -> None:
        self._make, self._find, self._number = make, find, number
        self._joined, self._lost = joined, lost
        self._lock = threading.RLock()  # held through no wait for Ray
        self._learning = threading.Lock()
        self._making: dict[tuple[str, str], threading.Lock] = {}
        self._hosts: dict[tuple[str, str], Any] = {}
        self._watches: dict[Any, tuple[str, str, Any]] = {}
        self._classes: dict[str, bytes] = {}
        self._numbers: dict[str, int] = {}  # of these versions
        self._made_of: dict[tuple[str, str], str] = {}  # the fingerprint of the class, where known
        self.deaths = 0
        self.leaving: set[str] = set()  # nodes that get nothing any more
        self._has_ended = False

    def host(self, key: str, node: str, shipped: bytes) -> Any:
        """Return the host of a backend on a node.

        That a host is dead is for Ray to say: a caller who cannot reach it knows only that.

        - `key`, `node`: the backend's key and the node's id
        - `shipped`: the backend's class; empty for a host that has none. If it is a later version
          than that of the host, the host ends in order and another takes its place

        Raises `StoreUnavailableError` if the node is gone.
        """
        host: Any = self._hosts.get((key, node))
        if host is not None and key in _WITHOUT_CLASS:
            return host
        with self._lock:
            one_at_a_time = self._making.setdefault((key, node), threading.Lock())
        with one_at_a_time:
            if key not in _WITHOUT_CLASS:
                return self._of_class(key, node, shipped)
            with self._lock:
                host = self._hosts.get((key, node))
            return self._made(key, node, shipped) if host is None else host

    def _of_class(self, key: str, node: str, shipped: bytes) -> Any:
        """Return a host of the latest version of a backend's class."""
        self._learn()
        with self._lock:
            latest = self._latest(key, shipped)
            former: Any = self._hosts.get((key, node))
            if former is not None:
                made_of = self._made_of.get((key, node))
                if made_of == latest.fingerprint:
                    return former
                if made_of is None:
                    raise StoreUnavailableError(
                        f"the host on node {node} does not say of which class it is", backend=key
                    )
                logger.info("the class of %s has changed; its host on node %s ends", key, node)
                self._forget(key, node)
        if former is not None:
            _end([former])
        made = self._made(key, node, self._classes[key], another=former is not None)
        return made if (key, node) in self._made_of else self._of_class(key, node, shipped)

    def _latest(self, key: str, shipped: bytes) -> Shipped:
        """Return the latest version of a class that is known, of which this is one."""
        number = self._number(key, opened(shipped))
        if number >= self._numbers.get(key, 0):
            self._classes[key], self._numbers[key] = shipped, number
        return opened(self._classes[key])

    def _made(self, key: str, node: str, shipped: bytes, *, another: bool = False) -> Any:
        """Start a host, or take over the one that another controller started."""
        deadline = Deadline(_ENDS_WITHIN)
        host = None
        while host is None:
            self._check_not_ended(key)
            if not is_alive(node):
                raise StoreUnavailableError(f"node {node} is not in the cluster", backend=key)
            try:
                host = self._make(key, node, shipped, another=another)
                if key not in _WITHOUT_CLASS:
                    self._made_of[key, node] = opened(shipped).fingerprint
            except ray_exceptions.ActorAlreadyExistsError as error:
                host = self._find(key, node)
                if host is None:
                    deadline.pause_or_raise(translated(error, backend=key))
        if key == MEMORY:
            self._joined(node, actor_id(host))
        self.add({(key, node): host})
        self._check_not_ended(key)
        return host

    def _check_not_ended(self, key: str) -> None:
        if self._has_ended:
            raise StoreUnavailableError("the store was shut down", backend=key)

    def _learn(self) -> None:
        """Ask hosts that another controller made of which class they are."""
        with self._learning:
            hosts = self.everywhere()
            asked = {
                where: host.shipped.remote()
                for where, host in hosts.items()
                if where[0] not in _WITHOUT_CLASS and where not in self._made_of
            }
            if asked:
                answers = list(asked.values())
                ray.wait(answers, num_returns=len(asked), timeout=_ENDS_WITHIN, fetch_local=False)
            for (key, node), answer in asked.items():
                try:
                    shipped = wait_for(answer, backend=key, timeout=_COMES_WITHIN)
                except StorageError as error:
                    if is_known_dead(error):
                        self._lose(key, node, hosts[key, node], error)
                    continue
                with self._lock:
                    self._latest(key, shipped)
                    if self._is_current(key, node, hosts[key, node]):
                        self._made_of[key, node] = opened(shipped).fingerprint

    def add(self, hosts: dict[tuple[str, str], Any]) -> None:
        """Add hosts, new ones or those of another controller; kill them if the store has ended."""
        with self._lock:
            if not self._has_ended:
                for (key, node), host in hosts.items():
                    self._hosts[key, node] = host
                    self._watches[host.watch.remote()] = (key, node, host)
                return
        for host in hosts.values():
            ray.kill(host)  # it would outlive the store

    def classes(self) -> dict[str, bytes]:
        """Return the classes of the hosted backends, by key."""
        self._learn()
        with self._lock:
            return dict(self._classes)

    def found(self, key: str, node: str) -> Any:
        """Return the host of a backend on a node if there is one, else None."""
        # No lock: it is asked by the controller, which is asked under the lock.
        return self._hosts.get((key, node))

    def everywhere(self) -> dict[tuple[str, str], Any]:
        """Return all hosts, by backend and node."""
        with self._lock:
            return dict(self._hosts)

    def watch(self) -> None:
        """Notice hosts that die, in the time that Ray takes; never returns."""
        while True:
            with self._lock:
                watches = list(self._watches)
            if not watches:
                time.sleep(_WATCHED_EVERY)
                continue
            ended, _ = ray.wait(watches, timeout=_WATCHED_EVERY, fetch_local=False)
            for watch in ended:
                self._ended(watch)

    def _ended(self, watch: Any) -> None:
        with self._lock:
            watched = self._watches.pop(watch, None)
        if watched is None:
            return  # forgotten at the end of the store
        key, node, host = watched
        try:
            ray.get(watch)
        except ray_exceptions.ActorUnavailableError:
            # It may only be out of reach for a moment.
            with self._lock:
                if self._is_current(key, node, host):
                    self._watches[host.watch.remote()] = (key, node, host)
            time.sleep(_WATCHED_EVERY)
        except ray_exceptions.RayError as error:
            self._lose(key, node, host, error)

    def _lose(self, key: str, node: str, host: Any, error: Exception) -> None:
        with self._lock:
            if self._is_current(key, node, host):
                logger.warning("the host %s on node %s was lost (%s)", key, node, error)
                self._forget(key, node)

    def _is_current(self, key: str, node: str, host: Any) -> bool:
        return self._hosts.get((key, node)) is host

    def _forget(self, key: str, node: str) -> None:
        del self._hosts[key, node]
        self._made_of.pop((key, node), None)
        if key == MEMORY:
            self._lost(node)
        self.deaths += 1

    def kill_all(self) -> None:
        """End every host, those that are no volumes in order, and make no other."""
        with self._lock:
            self._has_ended = True  # a host made from now on would outlive the store
            hosts, self._hosts = self._hosts, {}
            self._watches.clear()
        _end([host for (key, _), host in hosts.items() if key not in _WITHOUT_CLASS])
        for (key, _), host in hosts.items():
            if key in _WITHOUT_CLASS:
                ray.kill(host)

    # What upkeep asks of volumes

    def pack(self, messages: Sequence[bytes]) -> tuple[Pin, str]:
        node = ray.get_runtime_context().get_node_id()
        made: tuple[Pin, str] = _answer(self.host(MEMORY, node, b"").pack.remote(messages))
        return made

    def adopt(self, node: str, pin: Pin, dropped: Sequence[int]) -> Pin:
        adopted: Pin = _answer(self.host(MEMORY, node, b"").adopt.remote(pin, dropped))
        return adopted

    def place(self, pin: Pin, preferred: str) -> str | None:
        free = sorted({node["NodeID"] for node in nodes()} - set(pin.nodes) - self.leaving)
        if preferred in free:
            return preferred
        # Spread by the object, so that no node gets all of what another held.
        return free[zlib.crc32(pin.id.encode()) % len(free)] if free else None

    def host_of(self, node: str) -> str:
        known = {known["NodeID"]: known["NodeManagerHostname"] for known in ray.nodes()}
        return str(known.get(node, ""))

    def pin_again(self, node: str, pins: list[Pin]) -> tuple[str, list[str], dict[str, str]]:
        found: tuple[str, list[str], dict[str, str]] = _answer(
            self.host(MEMORY, node, b"").pin_again.remote(pins)
        )
        return found


def _end(hosts: list[Any]) -> None:
    """Close the backends of hosts, as far as that is done in time, and end them."""
    closed = [host.close.remote() for host in hosts]
    if closed:
        ray.wait(closed, num_returns=len(closed), timeout=_ENDS_WITHIN, fetch_local=False)
    for host, closing in zip(hosts, closed, strict=True):
        try:
            ray.get(closing, timeout=0)
        except ray_exceptions.RayError as error:
            # A backend that cannot be closed must not keep the store from its end.
            logger.warning("a host did not close: %s", error)
        ray.kill(host)


def _answer(reference: Any) -> Any:
    return wait_for(reference, backend=MEMORY, timeout=_ANSWER_WITHIN)
