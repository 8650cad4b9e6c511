"""The watches of a host's backend, which callers ask for their next events by one call each."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

from polystore.base import DataSource
from polystore.events import Event, Events
from polystore.exceptions import UnsupportedOperationError
from polystore_ray.errors import WatchExpiredError

__all__ = ["Watches"]

_KEPT = 600.0  # seconds in which nobody asks, as when the process that asked has died


class Watches:
    """Keep watches between calls, each by its id."""

    def __init__(self) -> None:
        self._kept: dict[str, _Watch] = {}

    def begin(self, backend: DataSource, path: str, **options: Any) -> str:
        """Begin to watch a path, and return the id of the watch.

        Raises `UnsupportedOperationError` if the backend lacks watches that end their waits.
        """
        events = backend.watch(path, **options)
        if not isinstance(events, Events):
            raise UnsupportedOperationError(
                f"a host runs no {type(backend).__name__}.watch that does not return "
                f"polystore.events.Events; use the backend itself, in a task on that node"
            )
        watch_id = uuid.uuid4().hex
        watch = self._kept[watch_id] = _Watch(events)
        watch.end_later(self, watch_id)
        return watch_id

    def next_events(self, watch_id: str, within: float) -> list[tuple[Any, ...]] | None:
        """Return the next events of a watch, [] for none within some seconds, None after its end.

        Raises `WatchExpiredError` if the watch is not kept any more; and what the watch raises.
        """
        watch = self._kept.get(watch_id)
        if watch is None:
            raise WatchExpiredError(
                "the host of this watch has ended, or nobody asked it for ten minutes; list the "
                "directory, and watch it again"
            )
        events = None
        try:
            events = watch.next_events(within)
        finally:
            if events is None:
                self.end(watch_id)
        watch.end_later(self, watch_id)
        return None if events is None else [tuple(event) for event in events]

    def end(self, watch_id: str) -> None:
        """End a watch, if it is kept."""
        watch = self._kept.pop(watch_id, None)
        if watch is not None:
            watch.close()

    def close(self) -> None:
        """End all watches."""
        for watch_id in [*self._kept]:
            self.end(watch_id)


class _Watch:
    """One watch, which one call at a time asks."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._ending: threading.Timer | None = None
        self._is_closed = False

    def next_events(self, within: float) -> list[Event] | None:
        until = time.monotonic() + within
        with self._lock:
            self._keep()
            while True:
                events = self._events.step()
                if events is None or events or time.monotonic() >= until:
                    return events

    def end_later(self, watches: Watches, watch_id: str) -> None:
        """End the watch if nobody asks it for some time."""
        with self._lock:
            self._keep()
            if not self._is_closed:
                self._ending = threading.Timer(_KEPT, watches.end, [watch_id])
                self._ending.daemon = True
                self._ending.start()

    def _keep(self) -> None:
        if self._ending is not None:
            self._ending.cancel()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._keep()
            self._events.close()
