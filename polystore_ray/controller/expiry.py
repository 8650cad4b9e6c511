"""Expiry: when values with a time to live are to be deleted, and where they are then."""

from __future__ import annotations

import math
from collections.abc import Iterable
from heapq import heappop, heappush

from polystore.path_tree import Location, PathTree
from polystore.paths import join
from polystore_ray.controller.entries import Entry

__all__ = ["Expiry"]

Expired = tuple[str, int]
"""A path and the version of the value that is to be deleted there."""


class Expiry:
    """The moments in which values expire. It is not thread-safe.

    A value that is moved or copied is noted at its new path too; at a path where another value is
    by then, nothing happens.
    """

    def __init__(self) -> None:
        self._moments: list[tuple[float, str, int]] = []  # a heap

    @property
    def first(self) -> float:
        """The first moment, in seconds since the epoch; infinity if there is none."""
        return self._moments[0][0] if self._moments else math.inf

    def begin(self, until: float, locations: Iterable[Location], entries: Iterable[Entry]) -> None:
        """Let values that are saved at some locations expire at a moment."""
        for location, entry in zip(locations, entries, strict=True):
            entry.until = until
            self._note(entry, join(location.names))

    def came(self, tree: PathTree[Entry], path: str) -> None:
        """Note what has come to a path, by a move or a copy."""
        for where, entry in tree.entries(path) if self._moments else ():
            if entry.until is not None:
                self._note(entry, where)

    def _note(self, entry: Entry, path: str) -> None:
        heappush(self._moments, (entry.until or 0.0, path, entry.version))

    def due(self, moment: float) -> list[Expired]:
        """Return what has expired by a moment."""
        return [(path, version) for until, path, version in self._moments if until <= moment]

    def forget(self, moment: float) -> None:
        """Forget what has expired by a moment."""
        while self._moments and self._moments[0][0] <= moment:
            heappop(self._moments)
