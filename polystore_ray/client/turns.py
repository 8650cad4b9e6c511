"""Changes of one value by several writers: they wait for each other, or find a newer version."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable

from polystore.exceptions import VersionConflictError
from polystore_ray.deadline import Deadline
from polystore_ray.errors import CallTimeoutError

__all__ = ["save_in_turn"]

_LOCKS = tuple(threading.Lock() for _ in range(64))  # by the hash of a path
_LONGEST_PAUSE = 1.0  # seconds


def save_in_turn(save: Callable[[], None], path: str, deadline: Deadline) -> None:
    """Call `save`, which reads a value, changes it and saves it over the version that it read.

    After another writer's save it is called again. Writers of this process wait for each other.
    Raise CallTimeoutError if other writers save the value until the deadline.
    """
    lock = _LOCKS[hash(path) % len(_LOCKS)]
    if not lock.acquire(timeout=deadline.left):
        raise _kept_waiting(path)
    failed = itertools.count()
    start = 0.0

    def attempt() -> None:
        nonlocal start
        start = time.monotonic()
        save()

    def wait(_: VersionConflictError) -> None:
        """Wait by chance, longer after more failures, so that one of several writers is done."""
        took = time.monotonic() - start
        longest = min(_LONGEST_PAUSE, took * 2 ** min(next(failed), 10))
        pause = random.uniform(0, longest)  # noqa: S311 - no secret
        if pause >= deadline.left:
            raise _kept_waiting(path)
        time.sleep(pause)

    try:
        deadline.retry(attempt, VersionConflictError, wait, pause=0)
    finally:
        lock.release()


def _kept_waiting(path: str) -> CallTimeoutError:
    return CallTimeoutError(
        "other writers changed the value until the deadline, and nothing was saved; save larger "
        "parts at a time, or use zarr, which writes a region in place",
        path=path,
        backend="memory",
    )
