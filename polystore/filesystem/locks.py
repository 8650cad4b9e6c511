"""Turns at a file: one thread or process after another changes it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from polystore.exceptions import FileLockTimeoutError
from polystore.filesystem.dir_fd import Held

__all__ = ["deadline", "lock", "turn"]

_PATIENCE = 60.0  # seconds that a writer waits for others
_POLLED_EVERY = 0.005  # seconds


def deadline() -> float:
    """Return until when a writer waits that begins now, by `time.monotonic`."""
    return time.monotonic() + _PATIENCE


@contextmanager
def turn(held: Held) -> Iterator[os.stat_result]:
    """Give the status of a file, and let no other have a turn at it during the block.

    By then another may have its name. A turn ends with the process at the latest. Where the file
    system has no such locks, nobody waits.

    Raises
    ------
    FileLockTimeoutError
        If others, who need no more than to read the file, did not end in time.
    """
    with held.open() as file:
        try:
            lock(file.fileno(), deadline())
        except FileLockTimeoutError:
            raise
        except OSError:
            pass  # a network file system may have none; or it was deleted, which the caller sees
        yield os.fstat(file.fileno())


def lock(descriptor: int, until: float) -> None:
    """Lock an open file, until it is closed.

    Parameters
    ----------
    descriptor : int
        The file.
    until : float
        How long others are waited for, as `deadline` returns it.

    Raises
    ------
    FileLockTimeoutError
        If others did not end in time.
    FileNotFoundError
        If the file is deleted.
    """
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = True
        except BlockingIOError:
            is_held = False
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if is_held:
            return
        if time.monotonic() > until:
            raise FileLockTimeoutError(f"other writers did not end within {_PATIENCE:g} s")
        time.sleep(_POLLED_EVERY)
