"""Claims: which consumer works on which path, and until when."""

from __future__ import annotations

from typing import NamedTuple

from polystore.path_nodes import Directory
from polystore.path_tree import PathTree
from polystore.paths import NameFilter, normalize
from polystore_ray.controller.entries import Entry
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

    def __init__(self) -> None:
        self._claims: dict[str, _Claim] = {}
        self._last = 0
        self._purged_from = _PURGED_FROM

    def first(
        self, tree: PathTree[Entry], path: str, pattern: str, by: str, lease: float, clock: float
    ) -> tuple[str, int, float]:
        """Claim the first file in a directory that nobody has claimed: the one that came first.

        Return where it is, and the number of the claim. If there is none, return where the
        directory is, 0, and the seconds until a claim in it may run out.
        """
        location = tree.reached(path)
        if location is None:
            return normalize(path), 0, lease
        inside = location.node if isinstance(location.node, Directory) else {}
        prefix = "".join(f"/{name}" for name in location.names)
        selected = NameFilter(pattern)
        soonest = lease
        for name, node in inside.items():
            if not isinstance(node, Entry) or not selected(name):
                continue
            place = f"{prefix}/{name}"
            claim = self._claims.get(place)
            if claim is not None and claim.version == node.version and claim.until > clock:
                soonest = min(soonest, claim.until - clock)
                continue
            self._last += 1
            self._claims[place] = _Claim(self._last, by, node.version, lease, clock + lease)
            self._purge(tree)
            return place, self._last, lease
        return prefix or "/", 0, soonest

    def renew(
        self, tree: PathTree[Entry], path: str, number: int, lease: float, clock: float
    ) -> None:
        """Let a claim last for so many seconds from now."""
        claim = self.check(tree, path, number)
        self._claims[path] = claim._replace(lease=lease, until=clock + lease)

    def forget(self, path: str) -> None:
        """Let others claim a path."""
        self._claims.pop(path, None)

    def check(self, tree: PathTree[Entry], path: str, number: int) -> _Claim:
        """Return the claim of this number; raise `ClaimLostError` if it does not hold any more."""
        claim = self._claims.get(path)
        if claim is None or claim.number != number or claim.version != _version(tree, path):
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

    def _purge(self, tree: PathTree[Entry]) -> None:
        if len(self._claims) > self._purged_from:
            for path in [p for p, c in self._claims.items() if c.version != _version(tree, p)]:
                del self._claims[path]
            self._purged_from = max(_PURGED_FROM, 2 * len(self._claims))


def _version(tree: PathTree[Entry], path: str) -> int:
    location = tree.reached(path, follow=False)
    node = None if location is None else location.node
    return node.version if isinstance(node, Entry) else 0
