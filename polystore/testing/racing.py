"""Races of threads: all start at once, and each result is returned."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from polystore.exceptions import StorageError

__all__ = ["Onlookers", "looking_on", "quick_switching", "race"]

_WITHIN = 30.0  # seconds


def race(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make calls at once, each in a thread of its own; return their results in order.

    A `StorageError` is returned as a result. Any other exception is raised.
    """
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait(_WITHIN)
        try:
            return call()
        except StorageError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


class Onlookers:
    """Threads that look at something repeatedly while it changes.

    - `seen`: the result of each look
    """

    def __init__(self, look: Callable[[], Any]) -> None:
        self.seen: list[Any] = []
        self._look = look
        self._looked = threading.Event()
        self._ended = threading.Event()

    def rounds(self, number: int) -> Iterator[int]:
        """Count changes, each to be made just when another look begins."""
        for i in range(number):
            self._looked.clear()
            if not self._ended.is_set():
                self._looked.wait(_WITHIN)
            if self._ended.is_set():
                return
            yield i

    def run(self) -> None:
        """Look until it ends, and once more; an exception ends it."""
        try:
            while not self._ended.is_set():
                self.seen.append(self._look())
                self._looked.set()
            self.seen.append(self._look())
        finally:
            self.end()

    def end(self) -> None:
        """End the looks after one more."""
        self._ended.set()
        self._looked.set()


@contextmanager
def looking_on(look: Callable[[], Any], threads: int = 2) -> Iterator[Onlookers]:
    """Call `look` in threads while the block runs; raise its exception at the end of the block."""
    onlookers = Onlookers(look)
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(onlookers.run) for _ in range(threads)]
        try:
            yield onlookers
        finally:
            onlookers.end()
        for one in running:
            one.result()


@contextmanager
def quick_switching() -> Iterator[None]:
    """Switch threads a thousand times as often as by default, so that races happen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
