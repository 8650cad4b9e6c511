"""Eviction: which values may leave a full store, in which order."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from polystore_ray.controller.entries import Entry

__all__ = ["Evictables"]


class Evictables:
    """The values that may be evicted, each with a number, the one used longest ago first.

    It is not thread-safe. Only the leader knows of reads. So the order, which decides nothing but
    what the leader has evicted next, is the one thing in which its state differs from a follower's.
    """

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._last = 0

    def begin(self, entries: Iterable[Entry]) -> None:
        """Let values be evicted from now on."""
        for entry in entries:
            self._last += 1
            entry.evictable = self._last
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Let a value be evicted that can be again, if nobody has pinned it."""
        if entry.evictable and not entry.is_pinned and entry.held is not None:
            self._entries[entry.evictable] = entry

    def used(self, entry: Entry) -> None:
        """Make a value the one that was used last."""
        if self._entries.pop(entry.evictable, None) is not None:
            self._entries[entry.evictable] = entry

    def discard(self, entry: Entry) -> None:
        """Keep a value, or forget one that is gone."""
        self._entries.pop(entry.evictable, None)

    def entries(self, numbers: Iterable[int]) -> list[Entry]:
        """Return the values of these numbers, as far as they are there."""
        return [self._entries[number] for number in numbers if number in self._entries]

    def for_room(self, wanted: int, spared: Collection[Entry]) -> list[int]:
        """Return the numbers of values that take so many bytes; none if all take less.

        - `spared`: those whose bytes are counted as free already
        """
        numbers: list[int] = []
        for number, entry in self._entries.items():
            if wanted <= 0:
                break
            if entry not in spared:
                numbers.append(number)
                wanted -= entry.facts[0]
        return numbers if wanted <= 0 else []
