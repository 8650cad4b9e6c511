"""Gathering: what many coroutines ask for one by one goes out in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["Gathering"]

_ON_THEIR_WAY = 2  # batches at a time, so that one is carried out while another is made

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")

Asked = dict[K, tuple[T, list["asyncio.Future[R]"]]]


class Gathering(Generic[K, T, R]):
    """Let all that is asked while others are on their way go together.

    It waits for nothing: the first to ask goes at once, with all who ask in the same step of the
    event loop. The order in which batches arrive is not kept.

    - `together`: ``together(keys, arguments)``: return the results for different keys, in a
      thread. If it raises, it is asked again for each key alone, unless nobody answers at all
    - `size`: what one argument counts
    - `most`: what the arguments of a batch count at most, one alone excepted
    """

    def __init__(
        self,
        together: Callable[[Sequence[K], Sequence[T]], Sequence[R]],
        size: Callable[[T], int] = lambda _: 0,
        most: int = 1,
    ) -> None:
        self._together = together
        self._size = size
        self._most = most
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue[K, T, R]]
        self._loops = WeakKeyDictionary()

    async def ask(self, key: K, argument: T) -> R:
        """Return the result for a key; of several arguments for it the last one may count for all.

        Raises what ``together`` raises for this key alone.
        """
        loop = asyncio.get_running_loop()
        queue = self._loops.get(loop)
        if queue is None:
            queue = self._loops[loop] = _Queue(self)
        return await queue.add(key, argument, loop)

    def take(self, waiting: Asked[K, T, R]) -> Asked[K, T, R]:
        """Take a batch from what waits, in the order in which it was asked."""
        taken: Asked[K, T, R] = {}
        size = 0
        for key, (argument, _) in waiting.items():
            size += self._size(argument)
            if taken and size > self._most:
                break
            taken[key] = waiting[key]
        for key in taken:
            del waiting[key]
        return taken

    async def carry_out(self, batch: Asked[K, T, R]) -> None:
        """Give every caller of a batch its result or its error."""
        keys = list(batch)
        arguments = [argument for argument, _ in batch.values()]
        try:
            results = await asyncio.to_thread(self._together, keys, arguments)
        except Exception as error:  # noqa: BLE001 - each is to meet that of its own key, only
            if len(keys) == 1 or isinstance(error, ConnectionError | TimeoutError):
                for _, futures in batch.values():
                    _settle(futures, error)
            else:
                alone = [self.carry_out({key: asked}) for key, asked in batch.items()]
                await asyncio.gather(*alone)
            return
        for (_, futures), result in zip(batch.values(), results, strict=True):
            _settle(futures, result)


class _Queue(Generic[K, T, R]):
    """What waits in one event loop."""

    def __init__(self, gathering: Gathering[K, T, R]) -> None:
        self._gathering = gathering
        self._waiting: Asked[K, T, R] = {}
        self._sent: set[asyncio.Task[None]] = set()
        self._is_called = False

    def add(self, key: K, argument: T, loop: asyncio.AbstractEventLoop) -> asyncio.Future[R]:
        future: asyncio.Future[R] = loop.create_future()
        _, futures = self._waiting.get(key, (None, ()))
        self._waiting[key] = argument, [*futures, future]
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._send)
        return future

    def _send(self) -> None:
        self._is_called = False
        while self._waiting and len(self._sent) < _ON_THEIR_WAY:
            batch = self._gathering.take(self._waiting)
            task = asyncio.get_running_loop().create_task(self._gathering.carry_out(batch))
            self._sent.add(task)
            task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._sent.discard(task)
        self._send()


def _settle(futures: Sequence[asyncio.Future[R]], outcome: R | Exception) -> None:
    for future in futures:
        if future.done():
            continue  # the caller was cancelled
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
