"""Read leases: which nodes may have kept which answers, and who waits until they are forgotten.

A node's lease covers the answers that its processes keep. A change that makes one of them wrong is
made at once, and acknowledged only when the boards of all nodes that may have kept it say so, or
their leases have run out. An answer that depends on the change waits for the same moment. The
controller counts a lease from the arrival of the request for it, and longer than the node does, so
that it never ends here before it ends there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from polystore.exceptions import StorageError
from polystore.paths import join
from polystore_ray.controller.effects import LEASED, Effect, Names, Tree, effect_of, names_read
from polystore_ray.controller.entries import Entry
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.wire.lease_board import LEASE, first_term
from polystore_ray.wire.messages import Leased, Renewal, Request, Wish

__all__ = ["HELD", "Invalidation", "Leases", "Tell"]

HELD = 1.25 * LEASE
"""Seconds that a lease counts here: more than on its node, though clocks differ by a tenth."""

_MOST_PATHS = 1000  # that a node is told of one by one
_MOST_KEPT = 1_000_000  # answers that all nodes keep, of which each has its share
_PURGED_EVERY = 60.0  # seconds

K = TypeVar("K")

Paths = list[str] | None
"""Those whose answers are not to be used any more; None for all."""

Tell = Callable[[str, int, Paths], Callable[[float], bool]]
"""Tell a node, under a term of its lease, which answers not to use. Return what waits for some
seconds, and returns whether the node has heard."""


class _Lease:
    """The read lease of one node."""

    def __init__(self, incarnation: str, term: int) -> None:
        self.incarnation = incarnation
        self.term = term
        self.until = 0.0
        self.kept = 0


class _Readers:
    """Which nodes may have kept answers about a value, or a missing one, and under which paths."""

    __slots__ = ("entry", "paths")

    def __init__(self, entry: Entry | None) -> None:
        self.entry = entry  # which keeps its identity from being another's; None if it is missing
        # By node: the term of its lease, and the paths with where they lead.
        self.paths: dict[str, tuple[int, dict[str, Names]]] = {}

    def of(self, node: str, lease: _Lease) -> dict[str, Names]:
        """Return the paths of a node under its present lease, to which more can be added."""
        known = self.paths.get(node)
        if known is None or known[0] != lease.term:
            known = self.paths[node] = lease.term, {}
        return known[1]

    def told(self, live: dict[str, _Lease]) -> Iterator[tuple[str, dict[str, Names]]]:
        """Yield the nodes whose lease lasts, and the paths, with where these lead."""
        for node, (term, paths) in self.paths.items():
            if node in live and live[node].term == term:
                yield node, paths


def _told_of(kept: dict[K, _Readers], live: dict[str, _Lease]) -> dict[K, _Readers]:
    """Return those of which nodes whose lease lasts may have kept answers."""
    return {key: readers for key, readers in kept.items() if any(readers.told(live))}


class Invalidation:
    """An effect that some nodes are still to hear of; it is carried out by whoever changed.

    - `names`: where answers depend on it; None for anywhere
    - `paths`: by node: the term and the end of its lease, and what it is to be told
    - `tell`: as for `Leases`
    """

    def __init__(
        self,
        names: frozenset[Names] | None,
        paths: dict[str, tuple[int, float, Paths]],
        tell: Tell,
    ) -> None:
        self._names = names
        self.paths = paths
        self._tell = tell
        self._begun = threading.Event()
        self._done = threading.Event()
        self._left: tuple[float, Callable[[float], bool]] | None = None

    @property
    def is_done(self) -> bool:
        """Whether all nodes have heard, or have no lease any more."""
        return self._done.is_set()

    def concerns(self, names: frozenset[Names] | None) -> bool:
        """Return whether an answer about these names depends on it."""
        if names is None or self._names is None:
            return names is None or bool(names)
        return not names.isdisjoint(self._names)

    @property
    def is_left(self) -> bool:
        """Whether it is carried out but for a node on which whoever changed counts itself."""
        return self._left is not None and not self.is_done

    def carry_out(self, maker: Wish | None = None) -> list[str]:
        """Tell the nodes, and return when each has heard or its lease has run out.

        Return the paths that the maker of the change has to count on the board of its own node, for
        which only others wait.
        """
        own: list[str] = []
        heard: list[tuple[float, Callable[[float], bool]]] = []
        for node, (term, until, paths) in self.paths.items():
            has_heard: Callable[[float], bool] = _never
            with suppress(Exception):  # whatever it is, the lease runs out
                has_heard = self._tell(node, term, paths)
            if maker is not None and maker[:2] == (node, term) and paths:
                own, self._left = paths, (until, has_heard)
            else:
                heard.append((until, has_heard))
        for until, has_heard in heard:
            _hear(until, has_heard)
        if self._left is None:
            self._done.set()
        self._begun.set()
        return own

    def wait(self, timeout: float) -> None:
        """Return when it is carried out; raise `StoreUnavailableError` if it takes too long."""
        late = time.monotonic() + timeout
        if self._begun.wait(timeout) and self._left is not None and not self.is_done:
            until, has_heard = self._left
            if _hear(min(until, late), has_heard) or until <= late:
                self._done.set()
        if not self._done.wait(max(0.0, late - time.monotonic())):
            raise StoreUnavailableError(
                f"a node that may read an older value was not reached within {timeout:.3g} s, and "
                f"its lease has not run out; a change that was asked for may have been made",
                backend="memory",
            )


def _hear(until: float, has_heard: Callable[[float], bool]) -> bool:
    """Return whether a node has heard before a moment; without that, at this moment."""
    with suppress(Exception):  # whatever it is, the lease runs out
        if has_heard(max(0.0, until - time.monotonic())):
            return True
    time.sleep(max(0.0, until - time.monotonic()))
    return False


def _never(_: float) -> bool:
    return False


class Leases:
    """The read leases of a store. It is not thread-safe; the controller holds its lock.

    - `epoch`: the controller's
    - `tell`: see `Tell`; without it no lease is granted
    """

    def __init__(self, epoch: int = 0, tell: Tell | None = None) -> None:
        self._tell = tell
        self._term = first_term(epoch)
        self._admitted: set[str] = set()  # incarnations of volumes
        self._leases: dict[str, _Lease] = {}
        self._kept: dict[int, _Readers] = {}  # by the identity of an entry
        self._misses: dict[Names, _Readers] = {}  # by where a missing file would be
        self._through_links: set[str] = set()  # nodes
        self._pending: list[Invalidation] = []
        self._purged = 0.0
        self.invalidations = 0

    def admit(self, incarnation: str) -> None:
        """Let a volume have the lease of its node: the next controller will know of the volume.

        Before that, a controller that was followed already could grant a lease of which the next
        one hears nothing.
        """
        self._admitted.add(incarnation)

    def renew(self, node: str, incarnation: str) -> Renewal | None:
        """Renew the lease of a node for its volume; None if it has to wait for a former one."""
        if self._tell is None or incarnation not in self._admitted:
            return None
        arrived = time.monotonic()
        lease = self._leases.get(node)
        if lease is None or lease.until <= arrived:
            self._term += 1
            lease = self._leases[node] = _Lease(incarnation, self._term)
            self._through_links.discard(node)
            self._purge(arrived)
        elif lease.incarnation != incarnation or lease.kept >= _MOST_KEPT / len(self._leases):
            return None  # until it has run out
        lease.until = arrived + HELD
        changed: Paths = []
        for invalidation in self.unfinished():
            _, _, paths = invalidation.paths.get(node, (0, 0.0, []))
            changed = None if changed is None or paths is None else changed + paths
        return Renewal(lease.term, changed)

    def _purge(self, moment: float) -> None:
        """Forget what was kept under leases that have run out."""
        if moment - self._purged < _PURGED_EVERY:
            return
        self._purged = moment
        live = self._live(moment)
        self._leases = live | {
            node: lease for node, lease in self._leases.items() if not lease.until
        }
        self._kept = _told_of(self._kept, live)
        self._misses = _told_of(self._misses, live)

    def _live(self, moment: float) -> dict[str, _Lease]:
        return {node: lease for node, lease in self._leases.items() if lease.until > moment}

    def end(self) -> list[Invalidation]:
        """Grant nothing any more, and end all leases."""
        ended = self._invalidation(Effect([], None, is_everywhere=True))
        self._tell = None
        return ended

    def answered(self, tree: Tree, request: Request, answer: Any) -> Any:
        """Return the answer to a question, as one that may be kept if the reader may keep it."""
        wish = request.wish
        if wish is None or request.operation not in LEASED or isinstance(answer, StorageError):
            return answer
        lease = self._leases.get(wish.node)
        if lease is None or lease.term != wish.term or lease.until <= time.monotonic():
            return answer
        first = request.arguments[0]
        is_evictable = False
        for path in first if isinstance(first, list) else [first]:
            location = tree.reached(path)
            if location is None:
                return answer  # a path through a file may lead elsewhere later
            entry = location.node if isinstance(location.node, Entry) else None
            if entry is None and request.operation != "read":
                return answer
            self._keep(lease, wish, path, location.names, entry)
            is_evictable = is_evictable or (entry is not None and bool(entry.evictable))
        return Leased(answer, is_evictable)

    def _keep(
        self, lease: _Lease, wish: Wish, path: str, names: Names, entry: Entry | None
    ) -> None:
        """Remember that a node may keep answers about a path, and where it leads."""
        if entry is None:
            readers = self._misses.setdefault(names, _Readers(None))
        else:
            readers = self._kept.setdefault(id(entry), _Readers(entry))
        paths = readers.of(wish.node, lease)
        if path not in paths:
            paths[path] = names
            lease.kept += 1
        if path != join(names):
            self._through_links.add(wish.node)

    def before(self, tree: Tree, request: Request) -> Effect | None:
        """Return the effect of a change that is about to be made, if anything may be kept."""
        if not self._leases:
            return None
        return effect_of(tree, request, has_misses=bool(self._misses))

    def after(self, effect: Effect | None) -> list[Invalidation]:
        """Return what is to be carried out now that a change was made, if there is anything."""
        return [] if effect is None else self._invalidation(effect)

    def _invalidation(self, effect: Effect) -> list[Invalidation]:
        moment = time.monotonic()
        live = self._live(moment)
        told: dict[str, Paths] = {}
        names = effect.names
        if effect.is_everywhere:
            told = dict.fromkeys(live)
            if names is None:  # so that whatever comes later waits for it
                self._kept.clear()
                self._misses.clear()
        else:
            names = self._collect(effect, live, told)
            if effect.has_links:
                told |= dict.fromkeys(self._through_links & live.keys())
        if not told or self._tell is None:
            return []
        paths: dict[str, tuple[int, float, Paths]] = {}
        for node, each in told.items():
            lease, few = live[node], len(each or ()) < _MOST_PATHS
            paths[node] = lease.term, lease.until, each if few else None
        invalidation = Invalidation(names, paths, self._tell)
        self._pending = [*self.unfinished(), invalidation]
        self.invalidations += 1
        return [invalidation]

    def _collect(
        self, effect: Effect, live: dict[str, _Lease], told: dict[str, Paths]
    ) -> frozenset[Names] | None:
        """Add the paths under which nodes may have kept answers that the effect makes wrong.

        Return where answers depend on it: also where a copy of one of its entries is, of which
        nothing is known to be kept from now on.
        """
        concerned = [self._kept.pop(id(entry), None) for entry in effect.entries]
        if self._misses:
            concerned += [self._misses.pop(place, None) for place in self._made_at(effect)]
        names: set[Names] = set()
        for readers in concerned:
            for node, paths in readers.told(live) if readers is not None else ():
                found = told.setdefault(node, [])
                if found is not None:
                    found.extend(paths)
                names.update(paths.values())
        return None if effect.names is None else effect.names | names

    def _made_at(self, effect: Effect) -> set[Names]:
        """Return where files may be after an effect that somebody may keep are missing."""
        places = set(effect.names or ())
        if effect.below is not None:
            depth = len(effect.below)
            places |= {place for place in self._misses if place[:depth] == effect.below}
        return places

    def unfinished(self) -> list[Invalidation]:
        """Return what is still being carried out."""
        return [each for each in self._pending if not each.is_done]

    def left(self) -> list[Invalidation]:
        """Return what is carried out but for the boards of those who made the changes."""
        return [each for each in self._pending if each.is_left]

    def pending(self, tree: Tree, request: Request) -> list[Invalidation]:
        """Return what has to be carried out before the answer to a request may be given."""
        self._pending = self.unfinished()
        if not self._pending:
            return []
        names = names_read(tree, request)
        return [each for each in self._pending if each.concerns(names)]

    def status(self) -> dict[str, int]:
        """Return what is counted."""
        return {
            "leases": len(self._live(time.monotonic())),
            "invalidations": self.invalidations,
        }
