"""A lock of a path between processes and threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from polystore.arguments import seconds
from polystore.error_translation import located
from polystore.exceptions import FileLockError, FileLockTimeoutError
from polystore.paths import P, as_system_text

__all__ = ["file_lock"]


@contextmanager
def file_lock(path: P, timeout: float = 30.0, poll_interval: float = 0.1) -> Iterator[None]:
    """Hold the lock of `path`, exclusive among processes and threads, for a block.

    The lock file is what ``path`` leads to with ``.lock`` appended, so that a link and its target
    have one lock. It is left in place, since to remove it would take it from under a waiter.

    Parameters
    ----------
    path : str or os.PathLike
        What to lock; it need not exist.
    timeout : float, default 30.0
        Seconds to wait; 0 tries once.
    poll_interval : float, default 0.1
        Seconds between tries.

    Raises
    ------
    VFSTypeError
        If `timeout` or `poll_interval` is not a number of seconds of at least 0.
    InvalidPathError
        If the path cannot be one of the file system.
    FileLockTimeoutError
        If the lock was not free in time.
    FileLockError
        If the lock file cannot be made.
    """
    text = as_system_text(path)
    wait = seconds(timeout, "timeout")
    pause = min(seconds(poll_interval, "poll_interval"), wait, threading.TIMEOUT_MAX)
    lock_file = f"{os.path.realpath(text)}.lock"
    with located(text, None):
        try:
            Path(lock_file).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileLockError(f"the lock file cannot be used: {error}") from error
        lock = _acquired(lock_file, wait, pause)
    try:
        yield
    finally:
        lock.release()


def _acquired(lock_file: str, timeout: float, poll_interval: float) -> filelock.BaseFileLock:
    """Return a lock that is held, exclusive among processes and threads; the caller releases it.

    Raises
    ------
    FileLockTimeoutError
        If it was not free in time.
    FileLockError
        If the lock file cannot be made.
    """
    # One lock object for each use, so that threads exclude each other as processes do.
    lock = filelock.FileLock(lock_file, thread_local=True, is_singleton=False)
    try:
        lock.acquire(timeout=timeout, poll_interval=poll_interval)
    except filelock.Timeout as error:
        raise FileLockTimeoutError(f"the lock was not free within {timeout:g} s") from error
    except OSError as error:
        raise FileLockError(f"the lock file cannot be used: {error}") from error
    return lock
