"""Races of threads: all start at once, and what each of them came to is told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from polystore.exceptions import StorageError

__all__ = ["looking_on", "quick_switching", "race"]

_STARTED_WITHIN = 30.0  # seconds


def race(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make calls at once, each in a thread of its own; return their results in order.

    A `StorageError` is returned too, since to lose is a result. Any other exception passes.
    """
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait(_STARTED_WITHIN)
        try:
            return call()
        except StorageError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


@contextmanager
def looking_on(look: Callable[[], Any], threads: int = 2) -> Iterator[list[Any]]:
    """Call `look` again and again in threads while the block runs; what it returned is given.

    At least one look of each thread comes before the block, and one after it. Any exception of
    `look` passes when the block has ended.
    """
    seen: list[Any] = []
    looked = threading.Barrier(threads + 1)
    ended = threading.Event()

    def run() -> None:
        try:
            seen.append(look())
        finally:
            looked.wait(_STARTED_WITHIN)
        while not ended.is_set():
            seen.append(look())
        seen.append(look())

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(run) for _ in range(threads)]
        looked.wait(_STARTED_WITHIN)
        try:
            yield seen
        finally:
            ended.set()
        for one in running:
            one.result()


@contextmanager
def quick_switching() -> Iterator[None]:
    """Let threads take turns a thousand times as often as they do, so that races are met."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
