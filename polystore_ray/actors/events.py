"""The actor that tells the processes of a store of its events: one thread, however many wait."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import exceptions as ray_exceptions

from polystore.exceptions import StorageError
from polystore_ray.actors.base import FindController, Hosting, StoreOf, as_actor
from polystore_ray.controller.event_feed import CALLS, EventFeed
from polystore_ray.rayapi.private import allow_blocking_get
from polystore_ray.wire.decoding import decode, encode

__all__ = ["EventsActor"]

_ASKED_FOR = 10.0  # seconds, for the next events
_MORE = 20.0  # seconds until an answer is taken for lost
_GATHERED_FOR = 0.02  # seconds, for those who watch
_PAUSE = 0.2  # seconds, after the controller did not answer
_MOST_CALLS = 100_000  # that wait at once


class _Events(Hosting):
    """The event feed of one store. The feed belongs to the thread of the event loop."""

    def __init__(self, controller: Any, store: StoreOf, find_controller: FindController) -> None:
        allow_blocking_get()
        super().__init__(controller, store, find_controller)
        self._feed = EventFeed()
        self._following: asyncio.Task[None] | None = None

    async def wait(self, message: bytes) -> bytes:
        """Return whether a call is answered in time, and the answer or how far it looked.

        See `Transport.next_events`.
        """
        kind, *arguments, seconds = decode(message)
        loop = asyncio.get_running_loop()
        if self._following is None:
            self._following = loop.create_task(self._follow())
        answer: asyncio.Future[object] = loop.create_future()
        call = CALLS[kind](*arguments, answer.set_result)
        self._feed.add(call)
        try:
            return encode((True, await asyncio.wait_for(answer, seconds)))
        except TimeoutError:
            return encode((False, call.since))
        finally:
            self._feed.remove(call)

    async def _follow(self) -> None:
        """Take the events of the store as they come; never returns."""
        last = 0
        while True:
            try:
                answer = await asyncio.wait_for(
                    self._controller.events.remote(last, _ASKED_FOR), _ASKED_FOR + _MORE
                )
            except (ray_exceptions.RayError, TimeoutError, StorageError):
                await asyncio.sleep(_PAUSE)  # another controller comes, or the store ends
                continue
            is_next, number, records = decode(answer)
            last = records[-1][2] if records else number
            if records or not is_next:
                self._feed.take(is_next, number, records)
            if not self._feed.awaits_arrivals:
                await asyncio.sleep(_GATHERED_FOR)  # one answer for many events costs less


EventsActor = as_actor(concurrency_groups={"watch": 1}, max_concurrency=_MOST_CALLS)(_Events)
