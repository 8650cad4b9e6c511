"""Events: what happened to the paths of a backend, and iterators over them."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cached_property
from typing import Literal, NamedTuple, Self

__all__ = ["Event", "Events", "async_events"]


class Event(NamedTuple):
    """One change of one path.

    Attributes
    ----------
    kind : {"created", "replaced", "deleted", "moved"}
        What happened to what is at `path`.
    path : str
        Where it is now; of a deleted one, where it was. Links are resolved, except a last one.
    number : int
        The event's place in the order of the store. ``watch(since=number)`` yields what comes
        after it. Of files, its place among the events of one watch.
    type : {"file", "directory", "symlink"}
        What it is.
    is_tree : bool
        Whether the event is also about all that is below the directory, which has no events of
        its own: a tree is copied, moved and deleted in one step. Never of files, where each path
        has its own event, and a move is "deleted" and "created".
    version : int or None
        The version of a saved value, as in `Stat`.
    size : int or None
        The size of a saved value in bytes; None for a zarr array.
    source : str or None
        Of something that was moved, where it was.

    Examples
    --------
    >>> from polystore import Event
    >>> Event("created", "/plate1/A01", 7, version=3, size=80).path
    '/plate1/A01'
    """

    kind: Literal["created", "replaced", "deleted", "moved"]
    path: str
    number: int
    type: Literal["file", "directory", "symlink"] = "file"
    is_tree: bool = False
    version: int | None = None
    size: int | None = None
    source: str | None = None


class Events(Iterator[Event]):
    """The events of a watch: an iterator, and a context manager that ends the watch."""

    @cached_property
    def _pending(self) -> deque[Event]:
        return deque()

    def __next__(self) -> Event:
        while not self._pending:
            events = self.step()
            if events is None:
                raise StopIteration
            self._pending.extend(events)
        return self._pending.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def step(self) -> list[Event] | None:
        """Wait a moment, and return the events since the last step; None after the end."""

    @abstractmethod
    def close(self) -> None:
        """End the watch."""


async def async_events(begin: Callable[[], Events]) -> AsyncIterator[Event]:
    """Yield the events of a watch, while the event loop goes on; it begins with the first step."""
    import asyncio  # a seventh of the time that importing polystore would take
    from concurrent.futures import ThreadPoolExecutor

    loop = asyncio.get_running_loop()
    # One thread, so that a step that was cancelled has ended before the watch is closed.
    thread = ThreadPoolExecutor(1, "polystore-watch")
    beginning = thread.submit(begin)
    try:
        watch = await asyncio.wrap_future(beginning)
        while (events := await loop.run_in_executor(thread, watch.step)) is not None:
            for event in events:
                yield event
    finally:
        thread.submit(lambda: beginning.result().close())
        thread.shutdown(wait=False)
