"""Leadership of a store: how a controller takes over from one that died, and keeps a follower.

Nothing here knows of Ray: the volumes are reached through `Peers`, what the cluster remembers
through `Succession`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from polystore_ray.controller.journal import LEASE, Journal, Record
from polystore_ray.controller.ledger import Ledger
from polystore_ray.controller.state import StoreController
from polystore_ray.errors import HostLostError
from polystore_ray.rayapi.errors import is_known_dead
from polystore_ray.replication.epochs import Succession
from polystore_ray.wire.messages import OutOfStepError, Pin, StaleEpochError

__all__ = ["Joined", "Leadership", "Peers"]

logger = logging.getLogger(__name__)

_CHECKED_EVERY = 0.5  # seconds, well below `LEASE`
_TRIED_AGAIN_AFTER = 1.0  # seconds
_LOOKED_FOR_BETTER_EVERY = 1.0  # seconds, a place that is safer for the follower
_AVOIDED_FOR = 60.0  # seconds, where a node could not follow


class Joined(NamedTuple):
    """What a volume says to a new controller."""

    incarnation: str
    number: int
    """How many changes its copy of the tree holds; -1 if it has none."""
    holdings: list[Pin]
    """What it holds of values."""


class Peers(Protocol):
    """The volumes of a store, as its controller calls them. Errors are those of remote calls."""

    def join(self, epoch: int) -> dict[str, Joined]:
        """Have every volume refuse lower epochs and turn to this controller; by node.

        Raises
        ------
        StoreUnavailableError
            If one that may live does not answer.
        """

    def state(self, node: str, epoch: int) -> tuple[int, list[bytes]]:
        """Return the copy of the tree that a node has; see `Follower.state`."""

    def candidates(self) -> list[str]:
        """Return the nodes that could follow, the best first."""

    def could_follow_better(self, node: str) -> list[str]:
        """Return the nodes that would be safer followers than this one, the best first."""

    def take(self, node: str, epoch: int, first: bool, part: bytes) -> None:
        """Send a part of a state to a node, where a volume is started if there is none."""

    def install(
        self, node: str, epoch: int, number: int, parts: int, meanwhile: Callable[[], None]
    ) -> None:
        """Have a node install the state that it took; call `meanwhile` now and then."""

    def append(self, node: str, epoch: int, first: int, records: list[Record]) -> None:
        """Send changes to a node within the lease; see `Follower.append`."""

    def forget(self, epoch: int, *, but: str) -> None:
        """Have every other node than this one let go of its copy, if it has one."""


class Leadership:
    """One incarnation of a store's controller: what it took over, and its follower.

    Parameters
    ----------
    succession : Succession
        Its place among the controllers of its store.
    peers : Peers
        The store's volumes.
    release : callable
        As for `StoreController`.
    """

    def __init__(
        self,
        succession: Succession,
        peers: Peers,
        release: Callable[[str, list[str]], None],
    ) -> None:
        self._succession = succession
        self._peers = peers
        self._synchronous = (succession.options.replicas or 1) > 1
        self._failed: dict[str, float] = {}  # nodes that could not follow, and when
        self._used = threading.Event()
        self._checked = 0.0
        self._content_until = 0.0
        self.lost = ""
        self.journal = Journal(succession.epoch, synchronous=self._synchronous)
        self.controller = StoreController(
            release, Ledger(succession.options.max_bytes), self.journal
        )
        if succession.epoch > 1:
            self._take_over(release)

    def _take_over(self, release: Callable[[str, list[str]], None]) -> None:
        epoch = self._succession.epoch
        # From now on nobody follows a leader that is cut off and believes that it still is one.
        self._peers.join(epoch)
        # Asked again, since until the last of them refused it, the former could acknowledge what
        # was pinned where the first had answered already.
        joined = self._peers.join(epoch)
        start = time.monotonic()
        volumes = {node: this.incarnation for node, this in joined.items()}
        node = self._succession.designated()
        if node is None:  # nothing has been acknowledged
            self.controller.recover(volumes, {})
            return
        if node not in joined or joined[node].number < 0:
            self.lost = (
                f"the store's controller was lost, and with it, or before it, the memory host of "
                f"node {node}, which had the other copy of its tree; shutdown() lets a new store "
                f"start"
            )
            return
        number, state = self._peers.state(node, epoch)
        self.journal = Journal(epoch, number, synchronous=self._synchronous)
        self.controller = StoreController.from_parts(state, release, self.journal)
        time.sleep(max(0.0, LEASE - (time.monotonic() - start)))
        self.controller.recover(volumes, {where: this.holdings for where, this in joined.items()})
        self.use()
        logger.warning("a new controller took over %d changes from node %s", number, node)

    def use(self) -> None:
        """Answer from now on only what a follower makes safe."""
        if not self._used.is_set():
            sent = time.monotonic()
            try:
                self._succession.check()
            except StaleEpochError:
                self.journal.fence()
            self.journal.need_follower(sent)
            self._used.set()

    # The follower

    def keep_follower(self) -> None:
        """Ship every change, to a new follower when one is lost; returns when it is fenced off."""
        while not self.journal.is_fenced:
            if self.lost or not self._used.wait(_TRIED_AGAIN_AFTER):
                time.sleep(_CHECKED_EVERY)  # an empty tree must not become the one to inherit
            else:
                self._follow_and_ship()

    def _follow_and_ship(self) -> None:
        follower = self.journal.follower
        try:
            if follower is None:
                self._find_follower(self._peers.candidates())
            elif time.monotonic() > self._content_until:
                self._content_until = time.monotonic() + _LOOKED_FOR_BETTER_EVERY
                self._find_follower(self._peers.could_follow_better(follower.node), patient=True)
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
            time.sleep(_TRIED_AGAIN_AFTER)

    def _find_follower(self, nodes: Iterable[str], *, patient: bool = False) -> None:
        for node in sorted(nodes, key=self._has_failed):
            if patient and self._has_failed(node):
                return
            try:
                number, state = self.controller.parts()
                self.journal.follow(_Installed(node, self), number, state)
            except Exception:
                # Whatever it is, another one may do.
                if self.journal.is_fenced:
                    return
                logger.warning("node %s cannot follow; trying another", node, exc_info=True)
                self._failed[node] = time.monotonic()
                continue
            self._peers.forget(self._succession.epoch, but=node)
            return
        if not patient:
            time.sleep(_TRIED_AGAIN_AFTER)

    def _has_failed(self, node: str) -> bool:
        return time.monotonic() - self._failed.get(node, -_AVOIDED_FOR) < _AVOIDED_FOR

    def install(self, node: str, epoch: int, number: int, state: Iterable[bytes]) -> None:
        """Make a node the one to succeed; this still is the leader afterwards, or it raises."""
        parts = 0
        for part in state:
            self._peers.take(node, epoch, parts == 0, part)
            self._stay()
            parts += 1
        self._peers.install(node, epoch, number, parts, self._stay)
        sent = time.monotonic()
        self._succession.designate(node)
        self.journal.heard(sent)

    def _stay(self) -> None:
        """Renew the lease while a state is on its way to a follower, which may take long."""
        sent = time.monotonic()
        if sent - self._checked > _CHECKED_EVERY:
            self._succession.check()
            self._checked = sent
            self.journal.heard(sent)

    def append(self, node: str, epoch: int, first: int, records: list[Record]) -> None:
        """Send changes to the follower."""
        self._peers.append(node, epoch, first, records)


class _Installed:
    """The follower on a node, as the journal calls it."""

    def __init__(self, node: str, leadership: Leadership) -> None:
        self.node = node
        self._leadership = leadership

    def install(self, epoch: int, number: int, state: Iterable[bytes]) -> None:
        self._leadership.install(self.node, epoch, number, state)

    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        self._leadership.append(self.node, epoch, first, records)
