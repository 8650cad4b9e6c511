"""Leadership of a store: how a controller takes over from one that died, and keeps a follower."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray

from polystore_ray.calls import answer_of, wait_for
from polystore_ray.controller import StoreController
from polystore_ray.errors import CallTimeoutError, HostLostError, StoreUnavailableError
from polystore_ray.hosts import HostTable
from polystore_ray.journal import LEASE, Journal, Record
from polystore_ray.ledger import Ledger
from polystore_ray.messages import OutOfStepError, Pin
from polystore_ray.options import StoreOptions
from polystore_ray.placement import MEMORY, named_hosts, nodes
from polystore_ray.ray_errors import is_known_dead
from polystore_ray.succession import Succession

__all__ = ["Leadership", "Rallied"]

logger = logging.getLogger(__name__)

_RALLY_WITHIN = 30.0  # seconds for volumes that are not known to be dead
_FOLLOW_WITHIN = 30.0  # seconds for a follower to take over a whole state
_LOOKED_AFTER_EVERY = 1.0  # seconds
_AVOIDED_FOR = 60.0  # seconds, where a node could not follow

Rallied = tuple[str, int, list[Pin]]
"""What a volume says to a new controller: its incarnation, how many changes its copy of the tree
holds (-1 for none), and what it holds of values."""


class _RemoteFollower:
    """The follower in a volume, as the journal calls it."""

    def __init__(self, node: str, volume: Any, succession: Succession) -> None:
        self.node = node
        self._volume = volume
        self._succession = succession

    def install(self, epoch: int, number: int, state: bytes) -> None:
        task = self._volume.install.remote(epoch, number, state)
        wait_for(task, backend=MEMORY, timeout=_FOLLOW_WITHIN)
        self._succession.appoint(self.node)

    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        answer_of(
            lambda: self._volume.append.remote(epoch, first, records),
            backend=MEMORY,
            timeout=LEASE,
            repeatable=False,
        )


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
        self._namespace = namespace
        self._hosts = hosts
        self._release = release
        self._node = ray.get_runtime_context().get_node_id()
        self._succession = Succession(namespace, options)
        self._epoch, self.birth, self.options = self._succession.origin
        self._synchronous = (self.options.replicas or 1) > 1
        self.lost = ""
        self._failed: dict[str, float] = {}  # nodes that could not follow, and when
        heir = self._succession.inherited()
        self.is_used = heir is not None
        self.journal = Journal(self._epoch, synchronous=self._synchronous)
        self.controller = StoreController(release, Ledger(self.options.max_bytes), self.journal)
        if self._epoch > 1:
            self._take_over(heir)
        if self._synchronous:
            self.journal.need_follower()

    def use(self) -> None:
        """Know from now on, and let every successor know, that there is a tree."""
        self._succession.begin()
        self.is_used = True

    def _take_over(self, heir: str | None) -> None:
        known = named_hosts(self._namespace)
        rallied = self._rally({node: host for (key, node), host in known.items() if key == MEMORY})
        # From now on nobody follows a leader that is cut off and believes that it still is one.
        start = time.monotonic()
        self._hosts.rejoin({where: h for where, h in known.items() if self._lives(where, rallied)})
        volumes = {node: incarnation for node, (incarnation, _, _) in rallied.items()}
        if not heir and (heir is None or self._synchronous):
            self.controller.recover(volumes, {})  # nothing has been answered
            return
        if heir not in rallied or rallied[heir][1] < 0:
            self.lost = (
                "the store's controller was lost, and with it, or before it, the process that had "
                "the other copy of its tree; shutdown() lets a new store start"
            )
            return
        host = self._hosts.found(MEMORY, heir)
        number, state = wait_for(
            host.state.remote(self._epoch), backend=MEMORY, timeout=_FOLLOW_WITHIN
        )
        self.journal = Journal(self._epoch, number, synchronous=self._synchronous)
        self.controller = StoreController.from_state(state, self._release, self.journal)
        time.sleep(max(0.0, LEASE - (time.monotonic() - start)))
        self.controller.recover(
            volumes, {node: holdings for node, (_, _, holdings) in rallied.items()}
        )
        logger.warning(
            "a new controller of %s took over %d changes from node %s",
            self._namespace,
            number,
            heir,
        )

    def _lives(self, where: tuple[str, str], rallied: dict[str, Rallied]) -> bool:
        key, node = where
        return key != MEMORY or node in rallied

    def _rally(self, volumes: dict[str, Any]) -> dict[str, Rallied]:
        """Return what volumes say that live; one that may live and says nothing is waited for."""
        this = ray.get_runtime_context().current_actor
        deadline = time.monotonic() + _RALLY_WITHIN
        calls = {
            node: partial(volume.rally.remote, self._epoch, this)
            for node, volume in volumes.items()
        }
        asked = {node: call() for node, call in calls.items()}  # all at once
        found: dict[str, Rallied] = {}
        for node, call in calls.items():
            try:
                found[node] = answer_of(
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
        return found

    def end(self) -> None:
        """Let nobody take over any more."""
        self._succession.end()

    # The follower

    def keep_follower(self) -> None:
        """Ship every change, to a new follower when one is lost; returns when it is fenced off."""
        while not self.journal.is_fenced:
            if self.lost:
                time.sleep(_LOOKED_AFTER_EVERY)  # an empty tree must not become the one to inherit
            elif not self.is_used and not self._synchronous:
                time.sleep(0.05)  # a store of files alone has no tree
            else:
                self._follow_and_ship()

    def _follow_and_ship(self) -> None:
        try:
            if self._could_be_safer():
                self._find_follower()
            follower = self.journal.follower
            self.journal.ship()
        except OutOfStepError:
            return
        except HostLostError as error:
            if follower is not None and not is_known_dead(error):
                self._failed[follower.node] = time.monotonic()
        except Exception:
            # Whatever it is, calls wait for the follower.
            logger.warning("the follower could not be kept; trying again", exc_info=True)
            time.sleep(_LOOKED_AFTER_EVERY)

    def _could_be_safer(self) -> bool:
        """Tell whether there is no follower, or another node would be better for it."""
        follower = self.journal.follower
        if follower is None:
            return True
        poor = {self._node, *self._hosts.leaving}
        if follower.node not in poor:
            return False
        return any(n["NodeID"] not in poor and not self._has_failed(n["NodeID"]) for n in nodes())

    def _find_follower(self) -> None:
        self.journal.need_follower()
        for node in self._candidates():
            try:
                volume = self._hosts.host(MEMORY, node, b"")
                follower = _RemoteFollower(node, volume, self._succession)
                self.journal.follow(follower, *self.controller.numbered_state())
            except Exception:
                # Whatever it is, another one may do.
                if self.journal.is_fenced:
                    return
                logger.warning("node %s cannot follow; trying another", node, exc_info=True)
                self._failed[node] = time.monotonic()
                continue
            for (key, other), host in self._hosts.everywhere().items():
                if key == MEMORY and other != node:
                    host.forget.remote(self._epoch)
            return
        time.sleep(_LOOKED_AFTER_EVERY)

    def _has_failed(self, node: str) -> bool:
        return time.monotonic() - self._failed.get(node, -_AVOIDED_FOR) < _AVOIDED_FOR

    def _candidates(self) -> list[str]:
        """Return the nodes that could follow, the best first."""

        def drawbacks(node: str) -> tuple[bool, bool, bool, bool, str]:
            leaves, has_none = node in self._hosts.leaving, self._hosts.found(MEMORY, node) is None
            return self._has_failed(node), node == self._node, leaves, has_none, node

        return sorted((node["NodeID"] for node in nodes()), key=drawbacks)
