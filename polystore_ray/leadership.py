"""Leadership of a store: how a controller takes over from one that died, and keeps a follower."""

from __future__ import annotations

import logging
import pickle
import secrets
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray

from polystore.exceptions import StorageError
from polystore_ray.calls import answer_of, wait_for
from polystore_ray.controller import StoreController
from polystore_ray.errors import CallTimeoutError, HostLostError, StoreUnavailableError
from polystore_ray.hosts import HostTable
from polystore_ray.journal import LEASE, Journal, Record
from polystore_ray.ledger import Ledger
from polystore_ray.messages import OutOfStepError, Pin
from polystore_ray.options import StoreOptions
from polystore_ray.placement import MEMORY, named_hosts, nodes
from polystore_ray.ray_internals import forget, recall, remember

__all__ = ["Leadership", "Rallied", "has_ended"]

logger = logging.getLogger(__name__)

_RALLY_WITHIN = 30.0  # seconds for volumes that are not known to be dead
_FOLLOW_WITHIN = 30.0  # seconds for a follower to take over a whole state
_LOOKED_AFTER_EVERY = 1.0  # seconds

Rallied = tuple[str, int, list[Pin]]
"""What a volume says to a new controller: its incarnation, how many changes its copy of the tree
holds (-1 for none), and what it holds of values."""


def _epoch_key(namespace: str) -> str:
    return f"{namespace}/epoch"


def has_ended(namespace: str) -> bool:
    """Tell whether a store was shut down, so that nobody should start its controller anew."""
    return recall(_epoch_key(namespace)) is None


class _Known(NamedTuple):
    """What the cluster remembers of a store: its last epoch, its birth, its options."""

    epoch: int
    birth: str
    options: StoreOptions


class _RemoteFollower:
    """The follower in a volume, as the journal calls it."""

    def __init__(self, node: str, volume: Any) -> None:
        self.node = node
        self._volume = volume

    def install(self, epoch: int, number: int, state: bytes) -> None:
        task = self._volume.install.remote(epoch, number, state)
        wait_for(task, backend=MEMORY, timeout=_FOLLOW_WITHIN)

    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        answer_of(
            lambda: self._volume.append.remote(epoch, first, records),
            backend=MEMORY,
            timeout=LEASE,
            repeatable=False,
        )

    def forget(self, epoch: int) -> None:
        self._volume.forget.remote(epoch)


class Leadership:
    """One incarnation of a store's controller: its epoch, what it took over, and its follower.

    Parameters
    ----------
    namespace : str
        The store's Ray namespace.
    options : StoreOptions
        What a new store is made with; one that lost its controller keeps its own.
    hosts : HostTable
        The store's hosts; those that live join it.
    release : callable
        As for `StoreController`.
    """

    def __init__(
        self,
        namespace: str,
        options: StoreOptions,
        hosts: HostTable,
        release: Callable[[str, list[str]], None],
    ) -> None:
        self._key = _epoch_key(namespace)
        self._namespace = namespace
        self._hosts = hosts
        self._release = release
        self._node = ray.get_runtime_context().get_node_id()
        self._follower: _RemoteFollower | None = None
        kept = recall(self._key)
        known = _Known(0, secrets.token_hex(8), options) if kept is None else pickle.loads(kept)
        self.birth: str = known.birth
        self.options: StoreOptions = known.options
        self._synchronous = (self.options.replicas or 1) > 1
        self.lost = ""
        self.is_used = kept is not None
        self._epoch = known.epoch + 1
        remember(self._key, pickle.dumps(known._replace(epoch=self._epoch)))
        if kept is None:
            self.journal = Journal(self._epoch, synchronous=self._synchronous)
            self.controller = StoreController(release, Ledger(self.options.max_bytes), self.journal)
        else:
            self._take_over()
        if self._synchronous:
            self.journal.need_follower()

    def _take_over(self) -> None:
        start = time.monotonic()
        known = named_hosts(self._namespace)
        rallied = self._rally({node: host for (key, node), host in known.items() if key == MEMORY})
        self._hosts.rejoin({where: h for where, h in known.items() if self._lives(where, rallied)})
        best = max(rallied, key=lambda node: rallied[node][1], default=None)
        if best is None or rallied[best][1] < 0:
            self.lost = (
                "the store's controller was lost, and with it, or before it, every process that "
                "had a copy of its tree; shutdown() lets a new store start"
            )
            self.journal = Journal(self._epoch)
            self.controller = StoreController(self._release, journal=self.journal)
            return
        host = self._hosts.found(MEMORY, best)
        number, state = wait_for(
            host.state.remote(self._epoch), backend=MEMORY, timeout=_FOLLOW_WITHIN
        )
        self.journal = Journal(self._epoch, number, synchronous=self._synchronous)
        self.controller = StoreController.from_state(state, self._release, self.journal)
        # Until then a leader that is cut off may believe that it speaks for the store.
        time.sleep(max(0.0, LEASE - (time.monotonic() - start)))
        self.controller.recover(
            {node: incarnation for node, (incarnation, _, _) in rallied.items()},
            {node: holdings for node, (_, _, holdings) in rallied.items()},
        )
        logger.warning(
            "a new controller of %s took over %d changes from node %s",
            self._namespace,
            number,
            best,
        )

    def _lives(self, where: tuple[str, str], rallied: dict[str, Rallied]) -> bool:
        key, node = where
        return key != MEMORY or node in rallied

    def _rally(self, volumes: dict[str, Any]) -> dict[str, Rallied]:
        """Return what volumes say that live; one that may live and says nothing is waited for."""
        this = ray.get_runtime_context().current_actor
        asked = {node: volume.rally.remote(self._epoch, this) for node, volume in volumes.items()}
        found: dict[str, Rallied] = {}
        for node, task in asked.items():
            try:
                found[node] = wait_for(task, backend=MEMORY, timeout=_RALLY_WITHIN)
            except HostLostError:
                continue
            except CallTimeoutError as error:
                raise StoreUnavailableError(
                    f"the memory host of node {node} may have the newest copy of the tree, and "
                    f"does not answer",
                    backend=MEMORY,
                ) from error
        return found

    def end(self) -> None:
        """Let nobody take over any more."""
        forget(self._key)

    # The follower

    def keep_follower(self) -> None:
        """Ship every change, to a new follower when one is lost; returns when it is fenced off."""
        while not self.journal.is_fenced:
            if not self.is_used and not self._synchronous:
                time.sleep(0.05)  # a store of files alone has no tree
                continue
            if self._follower is None or self._could_be_farther(self._follower):
                self._find_follower()
            try:
                self.journal.ship()
            except (HostLostError, OutOfStepError):
                self._follower = None

    def _could_be_farther(self, follower: _RemoteFollower) -> bool:
        return follower.node == self._node and any(n["NodeID"] != self._node for n in nodes())

    def _find_follower(self) -> None:
        self.journal.need_follower()
        for node in self._candidates():
            try:
                follower = _RemoteFollower(node, self._hosts.host(MEMORY, node, b""))
                self.journal.follow(follower, *self.controller.numbered_state())
            except StorageError:
                logger.warning("node %s cannot follow; trying another", node, exc_info=True)
                continue
            if self._follower is not None:
                self._follower.forget(self._epoch)
            self._follower = follower
            return
        self._follower = None
        self.journal.go_alone()
        time.sleep(_LOOKED_AFTER_EVERY)

    def _candidates(self) -> list[str]:
        """Return the nodes that could follow: those with a volume first, our own last."""
        alive = [node["NodeID"] for node in nodes()]
        return sorted(
            alive, key=lambda n: (n == self._node, self._hosts.found(MEMORY, n) is None, n)
        )
