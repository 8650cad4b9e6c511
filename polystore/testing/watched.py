"""Watches: what happens to values, told as events."""

from __future__ import annotations

from typing import Any, ClassVar

from polystore.events import Event
from polystore.testing.directories import Directories
from polystore.testing.kit import BackendKit, needs

__all__ = ["Watched"]


class Watched(BackendKit):
    """``watch``, of a backend whose values can be overwritten and deleted.

    Attributes
    ----------
    event_timeout : float
        Seconds in which an event is told at the latest.
    """

    event_timeout: ClassVar[float] = 60.0

    def test_a_watch_tells_what_happens_to_a_value(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        events = backend.watch(root or "/", timeout=self.event_timeout)
        told: list[Event | None] = []
        backend.save(self.value(), path)
        told.append(next(events, None))
        backend.save(self.value(1), path, overwrite=True)
        told.append(next(events, None))
        backend.delete(path)
        told.append(next(events, None))
        found = [event for event in told if event is not None]
        assert [event.kind for event in found] == ["created", "replaced", "deleted"]
        assert {(event.path, event.type) for event in found} == {(path, "file")}
        numbers = [event.number for event in found]
        assert numbers == sorted(set(numbers))

    def test_a_watch_begins_with_the_call(self, backend: Any, root: str) -> None:
        before, path = self.paths(root, "a", "b")
        backend.save(self.value(), before)
        events = backend.watch(root or "/", timeout=self.event_timeout)
        backend.save(self.value(), path)
        event = next(events, None)
        assert event is not None
        assert (event.kind, event.path) == ("created", path)

    def test_a_watch_ends_after_its_timeout(self, backend: Any, root: str) -> None:
        backend.save(self.value(), self.path(root, "a"))
        assert list(backend.watch(root or "/", timeout=0.1)) == []

    @needs(Directories)
    def test_a_watch_of_one_level_leaves_others_out(self, backend: Any, root: str) -> None:
        backend.ensure_directory(f"{root}/below")
        events = backend.watch(root or "/", recursive=False, timeout=self.event_timeout)
        backend.save(self.value(), self.path(f"{root}/below", "a"))
        path = self.path(root, "b")
        backend.save(self.value(), path)
        event = next(events, None)
        assert event is not None
        assert event.path == path
