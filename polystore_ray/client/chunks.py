"""Long work that a host does in parts: several at a time, each about a second long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, TypeVar

__all__ = ["THREADS", "hand_over"]

T = TypeVar("T")

THREADS = 4
"""Threads that call at a time."""

_MOST_THINGS = 1024  # in a part
_SHORT, _LONG = 0.25, 1.0  # seconds


def hand_over(
    call: Callable[[Sequence[T]], object],
    things: Sequence[T],
    done: Callable[[Sequence[T]], object],
) -> None:
    """Call a function with parts of a long sequence, in several threads.

    Parts grow while calls are short, so that many small things cost few calls, and shrink when
    calls are long, so that none comes near a deadline. After an error no new part is begun.

    - `call`: called with each part
    - `things`: the sequence
    - `done`: called with each part that is done, one at a time

    Raises the first error of `call`, once no call runs any more.
    """
    parts = _Parts(things)
    telling = threading.Lock()

    def work() -> None:
        while part := parts.take():
            start = time.monotonic()
            try:
                call(part)
            except BaseException:
                parts.stop()
                raise
            parts.took(len(part), time.monotonic() - start)
            with telling:
                done(part)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="polystore-handover") as pool:
        workers = [pool.submit(work) for _ in range(min(THREADS, len(things)))]
        try:
            wait(workers)
        except BaseException:  # such as the user's interruption
            parts.stop()
            raise
    for worker in workers:
        worker.result()


class _Parts(Generic[T]):
    """What is still to be done."""

    def __init__(self, things: Sequence[T]) -> None:
        self._things = things
        self._taken = 0
        self._size = 1
        self._lock = threading.Lock()

    def take(self) -> Sequence[T]:
        """Return the next part, empty when there is none."""
        with self._lock:
            # Towards the end smaller ones, so that all threads end at about the same time.
            left = len(self._things) - self._taken
            size = max(1, min(self._size, left // THREADS))
            part = self._things[self._taken : self._taken + size]
            self._taken += len(part)
            return part

    def took(self, size: int, seconds: float) -> None:
        with self._lock:
            if seconds < _SHORT and size >= self._size:
                self._size = min(2 * self._size, _MOST_THINGS)
            elif seconds > _LONG:
                self._size = max(1, min(self._size, size) // 2)

    def stop(self) -> None:
        with self._lock:
            self._taken = len(self._things)
