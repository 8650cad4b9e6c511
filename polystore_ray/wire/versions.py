"""The order of a class's versions, without a clock: as they were defined, or as they arrive."""

from __future__ import annotations

__all__ = ["ClassVersions"]

_MOST_ORIGINS = 1000  # that are remembered of a class


class ClassVersions:
    """Number the versions of backends' classes in the order in which they arrive.

    The versions of one process, its *origin*, keep the order in which it defined them, whichever
    arrives first. It depends on nothing but what it is told, so that a follower that is told the
    same numbers the same.
    """

    def __init__(self) -> None:
        self._latest: dict[str, tuple[int, str]] = {}  # by key: its number and fingerprint
        self._seen: dict[str, dict[str, tuple[int, int]]] = {}  # by key and origin: the last one

    def number(self, key: str, origin: str, sequence: int, fingerprint: str) -> int:
        """Return the number of a version, `sequence` among those of its origin.

        A later version has a higher number; the code of the latest version has its number.
        """
        seen = self._seen.setdefault(key, {})
        last, number = seen.get(origin, (-1, 0))
        if sequence < last:
            return 0
        if sequence > last:
            number, latest = self._latest.get(key, (0, ""))
            if not number or latest != fingerprint:
                number += 1
                self._latest[key] = number, fingerprint
            seen[origin] = sequence, number
            if len(seen) > _MOST_ORIGINS:
                del seen[next(iter(seen))]
        return number
