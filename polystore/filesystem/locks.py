"""Locks on open files, each held by one thread of one process; the operating system keeps them."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from polystore.exceptions import FileLockError, FileLockTimeoutError
from polystore.filesystem.dir_fd import Handle, Location, check_no_device

__all__ = ["Deadline", "hold_lock_file", "locked"]

_TIMEOUT = 60.0  # seconds that a writer waits for others
_POLL_INTERVAL = 0.005  # seconds


class Deadline:
    """The time until which a lock, or several one after another, are waited for: a minute."""

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = _TIMEOUT if timeout is None else timeout
        self._end = time.monotonic() + self.timeout

    def wait(self, pause: float) -> None:
        """Sleep for a pause, not beyond the end; at the end raise `FileLockTimeoutError`."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise FileLockTimeoutError(f"the lock was not free within {self.timeout:g} s")
        time.sleep(min(pause, left, threading.TIMEOUT_MAX))


@contextmanager
def locked(handle: Handle, deadline: Deadline) -> Iterator[os.stat_result]:
    """Lock a file for a block, and yield its status; another file may have its name by then.

    Where the file system has no locks, nobody waits.
    """
    with handle.open() as file:
        try:
            _lock(file.fileno(), deadline)
        except FileLockTimeoutError:
            raise
        except OSError:
            pass  # a network file system may have none; or it was deleted, which the caller sees
        yield os.fstat(file.fileno())


def hold_lock_file(
    location: Location, deadline: Deadline, poll_interval: float = _POLL_INTERVAL
) -> int:
    """Lock a file that is there for nothing else, until the returned descriptor is closed.

    The file is made where it is missing.

    Raises `FileLockTimeoutError` if the lock was not free in time; `FileNotFoundError` if the file
    or its directory was deleted; `FileLockError` if the file cannot be used as a lock.
    """
    try:
        descriptor = location.lock_file()
        try:
            check_no_device(os.fstat(descriptor))
            _lock(descriptor, deadline, poll_interval)
        except BaseException:
            os.close(descriptor)
            raise
    except (FileNotFoundError, FileLockError):
        raise
    except OSError as error:
        raise FileLockError(f"the lock file cannot be used: {error}") from error
    return descriptor


def _lock(descriptor: int, deadline: Deadline, poll_interval: float = _POLL_INTERVAL) -> None:
    """Lock an open file until it is closed; `FileNotFoundError` if the file is deleted."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except BlockingIOError:
            is_locked = False
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if is_locked:
            return
        deadline.wait(poll_interval)
