"""Lock objects: one writer at a time of a path in a store that only has conditional puts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from polystore.exceptions import FileLockTimeoutError, StorageError
from polystore.filesystem.temporaries import PREFIX, is_left, temporary_name
from polystore.zarr.object_store.client import RemoteObjects

__all__ = ["PATIENCE", "LockObject", "lock_key", "lock_object", "locked_name"]

PATIENCE = 60.0
"""Seconds that a writer waits for another one."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # seconds

_log = logging.getLogger(__name__)

_LEFT = "left~"
_held: set[str] = set()  # by this process


@dataclass(slots=True)
class LockObject:
    """A lock object that is held.

    - `inherited`: whether it was taken over, so that something may lie there that nobody may see
    - `left`: whether it stays when the block ends, for the next writer to take over
    """

    inherited: bool = False
    left: bool = False


def lock_key(key: str) -> str:
    """Return the key of the lock object of a key: next to it, with a name that listings hide."""
    parent, slash, name = key.rpartition("/")
    return f"{parent}{slash}{PREFIX}~{name}"


def locked_name(name: str) -> str:
    """Return the name that a lock object of this name locks."""
    return name[len(PREFIX) + 1 :]


@contextmanager
def lock_object(
    objects: RemoteObjects, key: str, patience: float = PATIENCE
) -> Iterator[LockObject]:
    """Hold the lock object of a key for a block; that of a dead process is taken over.

    - `patience`: seconds to wait for another writer

    Raises `FileLockTimeoutError` if it did not end in time.
    """
    lock, token = lock_key(key), temporary_name()
    deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
    _held.add(token)
    try:
        while (held := _take(objects, lock, token)) is None:
            if time.monotonic() + pause > deadline:
                raise FileLockTimeoutError(
                    f"another writer did not end within {patience:g} s; if there is none, delete "
                    f"the object {objects.url}/{lock}"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            yield held
        finally:
            _end(objects, lock, token, left=held.left)
    finally:
        _held.discard(token)


def _end(objects: RemoteObjects, lock: str, token: str, *, left: bool = False) -> None:
    try:
        if left:
            objects.wait(objects.put(lock, f"{_LEFT}{token}".encode()))
        else:
            objects.wait(objects.delete([lock]))
    except StorageError as error:
        # What was locked is done; the next writer finds that nobody holds the lock any more.
        _log.warning("the lock object %s/%s stays: %s", objects.url, lock, error)


def _take(objects: RemoteObjects, lock: str, token: str) -> LockObject | None:
    if objects.wait(objects.create(lock, token.encode())):
        return LockObject()
    holder = _holder(objects, lock)
    if holder == token:  # the answer to a first try was lost
        return LockObject()
    if holder is None or not _is_left(objects, lock, holder):
        return None
    # Of those that found it left one may replace it: the one that locks this very holder.
    takeover = f"{lock}~{holder.rpartition('~')[2]}"
    if _take(objects, takeover, token) is None:
        return None
    try:
        if _holder(objects, lock) != holder:
            return None
        objects.wait(objects.put(lock, token.encode()))
        return LockObject(inherited=True)
    finally:
        _end(objects, takeover, token)


def _holder(objects: RemoteObjects, lock: str) -> str | None:
    data = objects.wait(objects.get(lock))
    return None if data is None else data.decode(errors="replace")


def _is_left(objects: RemoteObjects, lock: str, holder: str) -> bool:
    """Return whether the holder of a lock object is gone, and cannot end it any more."""
    if holder.startswith(_LEFT):
        return True
    here = temporary_name().rpartition("~")[0]
    if holder.rpartition("~")[0] == here:
        return holder not in _held
    return is_left(holder, lambda: objects.modified(lock) or time.time())
