"""Locks and forks: nobody frees what other threads held when a child was forked."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

__all__ = ["held_over_forks"]

_locks: WeakSet[threading.RLock] = WeakSet()
_held: list[threading.RLock] = []


def held_over_forks(lock: threading.RLock) -> threading.RLock:
    """Return a lock that the forking thread takes before a fork and frees after it, on both sides.

    So the child finds it free, and what it guards whole.
    """
    _locks.add(lock)
    return lock


def _take() -> None:
    for lock in list(_locks):
        lock.acquire()
        _held.append(lock)


def _free() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take, after_in_parent=_free, after_in_child=_free)
