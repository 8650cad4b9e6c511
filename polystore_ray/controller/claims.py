"""Claims: which consumer works on which path, and until when."""

from __future__ import annotations

from typing import NamedTuple

from polystore.path_nodes import Directory
from polystore.path_tree import PathTree
from polystore.paths import NameFilter, join, normalize
from polystore_ray.controller.entries import Entry, version_at
from polystore_ray.errors import ClaimLostError

__all__ = ["Claims"]

_PURGED_FROM = 1000  # claims


class _Claim(NamedTuple):
    number: int
    by: str
    version: int
    """Of the value; another value is not claimed."""
    lease: float
    until: float
    """In seconds by the clock of the controller, which no other controller shares."""


class Claims:
    """The claims of a store. It is not thread-safe.

    A claim is of one value: once it is replaced, moved or deleted, there is no claim any more.
    """

    def __init__(self, tree: PathTree[Entry]) -> None:
        self._tree = tree
        self._claims: dict[str, _Claim] = {}
        self._last = 0
        self._purged_from = _PURGED_FROM

    def first(
        self, path: str, pattern: str, by: str, lease: float, clock: float
    ) -> tuple[str, int, float]:
        """Claim the first file in a directory that nobody has claimed: the one that came first.

        Return where it is, and the number of the claim. If there is none, return where the
        directory is, 0, and the seconds until a claim in it may run out.
        """
        location = self._tree.reached(path)
        if location is None:
            return normalize(path), 0, lease
        inside = location.node if isinstance(location.node, Directory) else {}
        selected = NameFilter(pattern)
        soonest = lease
        for name, node in inside.items():
            if not isinstance(node, Entry) or not selected(name):
                continue
            place = join((*location.names, name))
            claim = self._claims.get(place)
            if claim is not None and claim.version == node.version and claim.until > clock:
                soonest = min(soonest, claim.until - clock)
                continue
            self._last += 1
            self._claims[place] = _Claim(self._last, by, node.version, lease, clock + lease)
            self._purge()
            return place, self._last, lease
        return join(location.names), 0, soonest

    def renew(self, path: str, number: int, lease: float, clock: float) -> None:
        """Let a claim last for so many seconds from now."""
        claim = self.check(path, number)
        self._claims[path] = claim._replace(lease=lease, until=clock + lease)

    def release(self, path: str, number: int) -> None:
        """Give a claim back."""
        self.check(path, number)
        self.forget(path)

    def forget(self, path: str) -> None:
        """Let others claim a path."""
        self._claims.pop(path, None)

    def check(self, path: str, number: int) -> _Claim:
        """Return the claim of this number; raise `ClaimLostError` if it does not hold any more."""
        claim = self._claims.get(path)
        if claim is None or claim.number != number or claim.version != version_at(self._tree, path):
            by = f", and {claim.by!r} has the path now" if claim and claim.number > number else ""
            raise ClaimLostError(
                f"the claim has run out, or the value is another one{by}; longer leases, or "
                f"renew(), keep a claim",
                path=path,
                backend="memory",
            )
        return claim

    def begin_anew(self, clock: float) -> None:
        """Let each claim last as long as it could, by the clock of another controller."""
        for path, claim in self._claims.items():
            self._claims[path] = claim._replace(until=clock + claim.lease)

    def _purge(self) -> None:
        if len(self._claims) > self._purged_from:
            for path in [
                p for p, c in self._claims.items() if c.version != version_at(self._tree, p)
            ]:
                del self._claims[path]
            self._purged_from = max(_PURGED_FROM, 2 * len(self._claims))
