"""Locks of a zarr array: one writer at a time of a shard, and one of the shape.

The shards of an array share a fixed number of locks, so that a small array has few lock files and
one with a million shards no more than that. Which lock is a shard's depends on its place alone,
never on the shape, which others may change.
"""

from __future__ import annotations

import errno
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import numpy as np

from polystore.atomic import PREFIX, acquired
from polystore.descent import HELD
from polystore.exceptions import FileLockError, FileLockTimeoutError

__all__ = ["LOCKS", "LocalLocks", "Locks", "lock_of"]

LOCKS = 64
"""How many locks the shards of an array share."""

_PATIENCE = 60.0  # seconds that a writer waits for others

# Odd and far apart, so that the shards of a row, a column or a block have different locks.
_STEPS = (1, 11, 37, 23, 53, 29)
_POLLED_EVERY = 0.005  # seconds


def lock_of(shards: Iterable[Iterable[int]]) -> list[int]:
    """Return the numbers of the locks of some shards, sorted.

    Parameters
    ----------
    shards : iterable of iterable of int
        For each axis, the indices along it; the shards are those at every combination.

    Examples
    --------
    >>> lock_of([[0], [3]]), lock_of([[0, 1], [3]])
    ([3], [3, 14])
    """
    numbers = np.zeros(1, np.int64)
    for place, indices in enumerate(list(shards)[::-1]):
        steps = np.fromiter(indices, np.int64) * _STEPS[place % len(_STEPS)]
        numbers = np.unique((numbers[:, None] + np.unique(steps % LOCKS)) % LOCKS)
    return [int(number) for number in numbers]


class Locks(ABC):
    """The locks of one array. Who takes both takes that of the shape first."""

    @abstractmethod
    def shape(self) -> ExitStack:
        """Hold the lock of the shape until the stack that is returned is closed."""

    @abstractmethod
    def shards(self, numbers: Iterable[int]) -> ExitStack:
        """Hold the locks of these numbers, of `lock_of`, until the stack is closed."""

    def all_shards(self) -> ExitStack:
        """Hold the locks of all shards."""
        return self.shards(range(LOCKS))


class LocalLocks(Locks):
    """Locks of the operating system on files in the array's directory.

    They are those of the file system itself, so that they hold among threads, processes, and
    nodes that share it; the system frees them when their holder dies. Copies leave the files out.

    Parameters
    ----------
    directory : str
        That of the array, held open by the caller.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def shape(self) -> ExitStack:
        return self._held(["shape"])

    def shards(self, numbers: Iterable[int]) -> ExitStack:
        # In one order everywhere, so that no two wait for each other.
        return self._held([f"{number:02}" for number in sorted(numbers)])

    def _held(self, names: list[str]) -> ExitStack:
        deadline = time.monotonic() + _PATIENCE
        with ExitStack() as stack:
            for name in names:
                stack.callback(self._acquired(f"{PREFIX}~lock~{name}", deadline))
            return stack.pop_all()

    def _acquired(self, name: str, deadline: float) -> Callable[[], object]:
        """Take a lock, and return what frees it."""
        lock_file = f"{self._directory}/{name}"
        if HELD:
            return self._locked(lock_file, deadline)
        timeout = deadline - time.monotonic()
        try:
            return acquired(lock_file, timeout, _POLLED_EVERY).release
        except FileLockTimeoutError as error:
            raise _too_late() from error

    def _locked(self, lock_file: str, deadline: float) -> Callable[[], object]:
        # Not by the library, which takes the path of a held directory for where it leads just now,
        # and so could be led out of a root.
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with ExitStack() as stack:
            try:
                descriptor = os.open(lock_file, flags, 0o666)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise FileLockError(f"the lock file cannot be used: {error}") from error
            stack.callback(os.close, descriptor)
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_held = True
                except BlockingIOError:
                    is_held = False
                if os.fstat(descriptor).st_nlink == 0:  # the array was deleted
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), lock_file)
                if is_held:
                    return stack.pop_all().close
                if time.monotonic() > deadline:
                    raise _too_late()
                time.sleep(_POLLED_EVERY)


def _too_late() -> FileLockTimeoutError:
    return FileLockTimeoutError(f"other writers of the array did not end within {_PATIENCE:g} s")
