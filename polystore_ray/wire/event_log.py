"""The event log: the last changes of a store's tree, in order, each with a number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

__all__ = ["EventLog", "Record"]

Record = tuple[Any, ...]
"""The fields of a `polystore.Event`, as a plain tuple, which every process of a store can read."""

_MOST = 20_000  # events, of about 300 bytes


class EventLog:
    """The last events, numbered without a gap. It is not thread-safe."""

    def __init__(self) -> None:
        self.last = 0  # the number of the last event
        self._records: deque[Record] = deque(maxlen=_MOST)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, kind: str, path: str, *details: Any) -> None:
        """Add an event; the details are the fields after its number."""
        self.extend([(kind, path, self.last + 1, *details)])

    def note(self, happened: Iterable[Record]) -> None:
        """Add events that have no number yet."""
        numbered = enumerate(happened, self.last + 1)
        self.extend([(kind, path, number, *more) for number, (kind, path, *more) in numbered])

    def extend(self, records: Sequence[Record]) -> None:
        """Add the next events, as another log has them."""
        self._records.extend(records)
        self.last += len(records)

    def after(self, number: int) -> list[Record] | None:
        """Return the events after one, None if there are some that are not known here."""
        count = self.last - number
        if not 0 <= count <= len(self._records):
            return None
        return list(islice(reversed(self._records), count))[::-1]

    def since(self, number: int) -> tuple[bool, int, list[Record]]:
        """Return True, a number and the events after it.

        If some of these are not known, return False, and all events, with the number before them.
        """
        records = self.after(number)
        return (False, *self.whole()) if records is None else (True, number, records)

    def whole(self) -> tuple[int, list[Record]]:
        """Return the number before the first event that is known, and all events."""
        return self.last - len(self._records), list(self._records)

    def replace(self, before: int, records: Sequence[Record]) -> None:
        """Take over another log as a whole."""
        self._records.clear()
        self.last = before
        self.extend(records)
