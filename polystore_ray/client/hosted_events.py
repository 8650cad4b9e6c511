"""The events of a hosted backend: its host waits for them, one short call after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from polystore.events import Event, Events
from polystore.exceptions import StorageError
from polystore_ray.errors import HostBusyError

__all__ = ["HostedEvents"]

_PAUSE = 0.2  # seconds, where the host is at its limit of calls


class HostedEvents(Events):
    """A watch that a host keeps.

    - `call`: ``call(method, *arguments, **options)`` calls the host
    - `shown`: returns a path of the host as the caller names it
    - `within`: seconds for which one call waits
    - `path`, `options`: what the host watches, and how
    """

    def __init__(
        self,
        call: Callable[..., Any],
        shown: Callable[[str], str],
        within: float,
        path: str,
        **options: Any,
    ) -> None:
        self._call, self._shown, self._within = call, shown, within
        self._id: str | None = call("begin_watch", path, **options)

    def step(self) -> list[Event] | None:
        if self._id is None:
            return None
        try:
            records = self._call("next_events", self._id, self._within)
        except HostBusyError:
            time.sleep(_PAUSE)
            return []
        if records is None:
            self._id = None
            return None
        events = [Event(*record) for record in records]
        return [event._replace(path=self._shown(event.path)) for event in events]

    def close(self) -> None:
        watch_id, self._id = self._id, None
        if watch_id is not None:
            with suppress(StorageError):  # the host ends it later
                self._call("end_watch", watch_id)
