"""Leadership of a store: how a controller takes over from one that died, and keeps a follower.

Nothing here knows of Ray: the volumes are reached through `Peers`, what the cluster remembers
through `Succession`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from polystore_ray.controller.journal import LEASE, Following, Journal, Record
from polystore_ray.controller.leases import HELD, Tell
from polystore_ray.controller.ledger import Ledger
from polystore_ray.controller.state import StoreController
from polystore_ray.errors import HostLostError
from polystore_ray.rayapi.errors import is_known_dead
from polystore_ray.replication.epochs import Succession
from polystore_ray.wire.messages import Joined, OutOfStepError, StaleEpochError

__all__ = ["Leadership", "Peers"]

logger = logging.getLogger(__name__)

_CHECKED_EVERY = 0.5  # seconds, well below `LEASE`
_TRIED_AGAIN_AFTER = 1.0  # seconds
_LOOKED_FOR_BETTER_EVERY = 1.0  # seconds, a place that is safer for the follower
_AVOIDED_FOR = 2.0  # seconds, where a node could not follow; twice as long each further time
_AVOIDED_FOR_MOST = 60.0


class Peers(Protocol):
    """The volumes of a store, as its controller calls them. Errors are those of remote calls."""

    def state(self, node: str, epoch: int) -> tuple[int, list[bytes]] | None:
        """Make a node refuse lower epochs, and return its copy of the tree; see `Follower.state`.

        None if it has no copy, or its volume has died.

        Raises `StoreUnavailableError` if it may live and does not answer.
        """

    def join(self, epoch: int) -> dict[str, Joined]:
        """Make every volume turn to this controller; return their answers by node.

        Raises `StoreUnavailableError` if one that may live does not answer.
        """

    def candidates(self, present: str | None) -> list[str]:
        """Return the nodes that would be better followers than the present one, the best first.

        Without a present one, all nodes.
        """

    def install(self, node: str, epoch: int, number: int, state: Iterable[bytes]) -> None:
        """Have a node take over a state, by a volume that is started if there is none."""

    def append(self, node: str, epoch: int, first: int, records: list[Record]) -> None:
        """Send changes to a node within the lease; see `Follower.append`."""

    def forget(self, epoch: int, *, but: str) -> None:
        """Have every other node than this one let go of its copy, if it has one."""


class Leadership:
    """One incarnation of a store's controller: what it took over, and its follower.

    - `succession`: its place among the controllers of its store
    - `peers`: the store's volumes
    - `release`, `tell`: as for `StoreController`
    """

    def __init__(
        self,
        succession: Succession,
        peers: Peers,
        release: Callable[[str, list[str]], None],
        tell: Tell | None = None,
    ) -> None:
        self._succession = succession
        self._peers = peers
        self._synchronous = (succession.options.replicas or 1) > 1
        self._failed: dict[str, int] = {}  # nodes that could not follow, and how often
        self._avoided: dict[str, float] = {}  # and until when they are avoided
        self._used = threading.Event()
        self.lost = ""
        self.journal = Journal(succession.epoch, synchronous=self._synchronous)
        self.controller = StoreController(
            release, Ledger.of(succession.options), self.journal, tell
        )
        if succession.epoch > 1:
            self._take_over(release, tell)

    def _take_over(self, release: Callable[[str, list[str]], None], tell: Tell | None) -> None:
        epoch = self._succession.epoch
        node = self._succession.designated()
        if node is not None:
            # From now on nobody follows a leader that is cut off and believes that it still is one.
            found = self._peers.state(node, epoch)
            if found is None:
                self.lost = (
                    f"the store's controller was lost, and with it, or before it, the memory host "
                    f"of node {node}, which had the other copy of its tree; shutdown() lets a new "
                    f"store start"
                )
            else:
                self.journal = Journal(epoch, found[0], synchronous=self._synchronous)
                self.controller = StoreController.from_parts(found[1], release, self.journal, tell)
        fenced = time.monotonic()
        # Volumes that answer now report all values that the former leader acknowledged, and have
        # ended the read leases of their nodes; those of the others run out.
        joined = self._peers.join(epoch)
        free = fenced + LEASE
        if self.controller.may_miss_volumes(joined):
            free = max(free, time.monotonic() + HELD)
        self.controller.recover(joined)
        time.sleep(max(0.0, free - time.monotonic()))
        if node is not None and not self.lost:
            self.use()
            logger.warning("a new controller took over from the follower on node %s", node)

    def use(self) -> None:
        """Answer from now on only what a follower makes safe."""
        if not self._used.is_set():
            sent = time.monotonic()
            try:
                self._succession.check()
            except StaleEpochError:
                self.journal.fence()
            self.journal.heard(sent)
            self.journal.need_follower()
            self._used.set()

    # The follower

    def ship(self) -> None:
        """Ship every change to the follower; returns when this is fenced off."""
        self._while_it_leads(self._ship)

    def keep_follower(self) -> None:
        """Find a follower where there is none, or a better one; returns when this is fenced off."""
        self._while_it_leads(self._find_follower)

    def _while_it_leads(self, work: Callable[[], None]) -> None:
        while not self.journal.is_fenced:
            try:
                if self.lost or not self._used.wait(_TRIED_AGAIN_AFTER):
                    time.sleep(_CHECKED_EVERY)  # an empty tree must not become the one to inherit
                else:
                    work()
            except StaleEpochError:
                self.journal.fence()
            except Exception:
                # Whatever it is, calls wait for the follower.
                logger.warning("the follower could not be kept; trying again", exc_info=True)
                time.sleep(_TRIED_AGAIN_AFTER)

    def _ship(self) -> None:
        follower = self.journal.follower
        if follower is None and self.journal.next is not None:
            sent = time.monotonic()
            self._succession.check()
            self.journal.heard(sent)
        try:
            self.journal.ship()
        except OutOfStepError:
            return
        except HostLostError as error:
            if follower is not None and not is_known_dead(error):
                self._avoid(follower.node)

    def _find_follower(self) -> None:
        self.journal.wait_until_lost(_LOOKED_FOR_BETTER_EVERY)
        follower = self.journal.follower
        nodes = self._peers.candidates(None if follower is None else follower.node)
        for node in sorted(nodes, key=self._is_avoided):
            # One on our own node would be lost with us: whoever failed is tried again soon.
            if follower is not None and self._is_avoided(node):
                return
            try:
                new = _Follower(node, self._peers, self._succession)
                self.journal.follow(new, self.controller.parts)
            except Exception:
                # Whatever it is, another one may do.
                if self.journal.is_fenced:
                    return
                logger.warning("node %s cannot follow; trying another", node, exc_info=True)
                self._avoid(node)
            else:
                self._failed.pop(node, None)
                self._peers.forget(self._succession.epoch, but=node)
                return
        if follower is None:
            time.sleep(_TRIED_AGAIN_AFTER)

    def _avoid(self, node: str) -> None:
        failures = self._failed[node] = self._failed.get(node, 0) + 1
        seconds = min(_AVOIDED_FOR_MOST, _AVOIDED_FOR * 2 ** (failures - 1))
        self._avoided[node] = time.monotonic() + seconds

    def _is_avoided(self, node: str) -> bool:
        return time.monotonic() < self._avoided.get(node, 0.0)


class _Follower(Following):
    """The follower on a node, as the journal calls it."""

    def __init__(self, node: str, peers: Peers, succession: Succession) -> None:
        super().__init__(node)
        self._peers, self._succession = peers, succession

    def install(self, epoch: int, number: int, state: Iterable[bytes]) -> None:
        self._peers.install(self.node, epoch, number, state)

    def append(self, epoch: int, first: int, records: list[Record]) -> None:
        self._peers.append(self.node, epoch, first, records)

    def designate(self) -> None:
        self._succession.designate(self.node)
