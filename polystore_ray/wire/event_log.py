"""The event log: the last changes of a store's tree, in order, each with a number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

__all__ = ["EventLog", "Record"]

Record = tuple[Any, ...]
"""The fields of a `polystore.Event`, as a plain tuple, which every process of a store can read."""

_KIND, _PATH, _NUMBER = range(3)
_MOST = 20_000  # events, of about 300 bytes
_GAP = 2**32  # numbers that a controller that was lost may have given to events nobody knows
_NOTHING = "nothing"


class EventLog:
    """The last events. It is not thread-safe.

    Numbers grow and are never used again, so that whoever has seen an event finds its place, or
    learns that what it saw was lost.
    """

    def __init__(self) -> None:
        self.last = 0  # the number of the last event
        self._before = 0  # the number of the last event that is not kept any more
        self._records: deque[Record] = deque()

    def __len__(self) -> int:
        return len(self._records)

    def add(self, kind: str, path: str, *details: Any) -> None:
        """Add an event; the details are the fields after its number."""
        self.last += 1
        self._keep((kind, path, self.last, *details))

    def skip(self) -> None:
        """Leave a gap, as another controller may have given the next numbers to lost events."""
        self.last += _GAP
        self._keep((_NOTHING, "", self.last))

    def extend(self, records: Iterable[Record]) -> None:
        """Add events of another log that come after the last one."""
        for record in records:
            self.last = record[_NUMBER]
            self._keep(record)

    def _keep(self, record: Record) -> None:
        self._records.append(record)
        if len(self._records) > _MOST:
            self._before = self._records.popleft()[_NUMBER]

    def after(self, number: int) -> list[Record] | None:
        """Return the events after one, None if there are some that are not known here."""
        found: list[Record] = []
        for record in reversed(self._records):
            if record[_NUMBER] <= number:
                return found[::-1] if record[_NUMBER] == number else None
            found.append(record)
        return found[::-1] if number == self._before else None

    def since(self, number: int) -> tuple[bool, int, list[Record]]:
        """Return True, a number and the events after it.

        If some of these are not known, return False, and all events, with the number before them.
        """
        records = self.after(number)
        return (False, *self.whole()) if records is None else (True, number, records)

    def whole(self) -> tuple[int, list[Record]]:
        """Return the number before the first event that is known, and all events."""
        return self._before, list(self._records)

    def replace(self, before: int, records: Iterable[Record]) -> None:
        """Take over another log as a whole."""
        self._records.clear()
        self._before = self.last = before
        self.extend(records)


def are_events(records: Iterable[Record]) -> list[Record]:
    """Return the records that are events, and not gaps."""
    return [record for record in records if record[_KIND] != _NOTHING]
