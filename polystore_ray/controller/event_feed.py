"""The event feed: the events of a store as they come, and the calls that wait for some of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from polystore.events import Event
from polystore_ray.wire.event_log import EventLog, Record

__all__ = ["CALLS", "Arrivals", "Changes", "EventFeed"]

_AT_ONCE = 1000  # events in one answer

Answer = Callable[[object], None]
_Index = defaultdict[str, "set[Arrivals]"]


class Arrivals:
    """A call that waits until paths exist. The answer is those that came.

    It is None where the caller has to ask the controller which exist now.

    - `places`: each path in normal form, with where it leads, which is how events name it
    - `wanted`: how many have to come
    - `since`: the number of the last event before none of them existed
    - `answer`: called once
    """

    def __init__(
        self, places: list[tuple[str, str]], wanted: int, since: int, answer: Answer
    ) -> None:
        self.since, self.answer = since, answer
        self._missing: defaultdict[str, list[str]] = defaultdict(list)
        for path, place in places:
            self._missing[place].append(path)
        self._wanted = wanted
        self._came: list[str] = []
        self.places = frozenset(self._missing)
        # A tree that comes there may make a path exist; so may a link, where the path leads.
        self.above = frozenset(
            each for pair in places for path in pair for each in _and_above(path)
        )

    def take(self, records: Iterable[Record]) -> bool:
        """Look at the next events; return whether there is an answer."""
        return any(self.look_at(Event(*record)) for record in records)

    def look_at(self, event: Event) -> bool:
        """Look at one event; return whether there is an answer."""
        if event.number <= self.since or event.kind == "deleted":
            return False
        if event.is_tree and event.path in self.above:
            self.answer(None)
            return True
        self._came += self._missing.pop(event.path, ())
        if len(self._came) < self._wanted:
            return False
        self.answer(self._came)
        return True


class Changes:
    """A call that waits for events at a path and, if `recursive`, below it.

    The answer is the number of the last event that was looked at, and the events. It is None where
    some of the events after `since` are not known.
    """

    def __init__(self, top: str, recursive: bool, since: int, answer: Answer) -> None:
        self._top, self._inside = top, top.rstrip("/") + "/"
        self._recursive = recursive
        self.since, self.answer = since, answer

    def take(self, records: list[Record]) -> bool:
        """Look at the next events; return whether there are some for the caller."""
        found: list[Record] = []
        for record in records:
            event = Event(*record)
            if any(self._concerns(path, event) for path in (event.path, event.source) if path):
                found.append(record)
                if len(found) == _AT_ONCE:
                    self.answer((event.number, found))
                    return True
        self.since = records[-1][2] if records else self.since
        if found:
            self.answer((self.since, found))
        return bool(found)

    def _concerns(self, path: str, event: Event) -> bool:
        if path.startswith(self._inside):
            return self._recursive or "/" not in path[len(self._inside) :]
        return path == self._top or (event.is_tree and self._top.startswith(f"{path}/"))


CALLS: dict[str, Callable[..., Arrivals | Changes]] = {"arrivals": Arrivals, "changes": Changes}
"""What can be asked of a feed, by the names that the calls have on their way to it."""


class EventFeed:
    """The last events, and who waits for the next ones. It is not thread-safe."""

    def __init__(self) -> None:
        self._log = EventLog()
        self._arrivals: _Index = defaultdict(set)  # by place
        self._below: _Index = defaultdict(set)  # by path, and by each directory above
        self._changes: set[Changes] = set()

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self._log.last

    @property
    def awaits_arrivals(self) -> bool:
        """Whether a call waits for a path."""
        return bool(self._arrivals)

    @property
    def is_needed(self) -> bool:
        """Whether any call waits."""
        return bool(self._arrivals or self._changes)

    def take(self, is_next: bool, number: int, records: list[Record]) -> None:
        """Take the events after one, and answer those who waited for them.

        Unless these are the next ones, some were missed, or lost with a controller.
        """
        if not is_next:
            self._replace(number, records)
            return
        self._log.extend(records)
        for record in records:
            event = Event(*record)
            concerned = self._arrivals.get(event.path, set())
            if event.is_tree:
                concerned = concerned | self._below.get(event.path, set())
            for call in list(concerned):
                if call.look_at(event):
                    self.remove(call)
        for each in list(self._changes):
            if each.take([record for record in records if record[2] > each.since]):
                self.remove(each)

    def _replace(self, before: int, records: list[Record]) -> None:
        waiting: set[Arrivals | Changes] = {*self._changes}
        waiting.update(*self._arrivals.values())
        self._log.replace(before, records)
        for each in waiting:
            self.remove(each)
            self.add(each)

    def add(self, call: Arrivals | Changes) -> None:
        """Answer a call from the events that are known, or let it wait for the next ones."""
        known = self._log.after(call.since) if call.since <= self.last else []
        if known is None:
            call.answer(None)
        elif call.take(known):
            return
        elif isinstance(call, Changes):
            self._changes.add(call)
        else:
            for index, paths in self._indexes(call):
                for path in paths:
                    index[path].add(call)

    def remove(self, call: Arrivals | Changes) -> None:
        """Forget a call, which has its answer or does not wait any more."""
        if isinstance(call, Changes):
            self._changes.discard(call)
            return
        for index, paths in self._indexes(call):
            for path in paths & index.keys():
                index[path].discard(call)
                if not index[path]:
                    del index[path]

    def _indexes(self, call: Arrivals) -> tuple[tuple[_Index, frozenset[str]], ...]:
        return (self._arrivals, call.places), (self._below, call.above)


def _and_above(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]
