"""A directory held open, from which others are reached one name at a time and through no link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

__all__ = ["HELD", "Descent", "held"]

HELD = os.path.isdir("/proc/self/fd")
"""Whether what is held open has a path, which stays when it is moved."""

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK


class Descent:
    """Where a walk through directories stands.

    It holds one descriptor, however deep it is. On the way back it looks whether the directory
    above is still the one that it came from.

    Parameters
    ----------
    directory : str
        Where it starts; its own links are followed.
    flags : int, optional
        How directories are opened; by default so that they can be listed.
    """

    def __init__(self, directory: str, flags: int = _READ) -> None:
        self._flags = flags | os.O_CLOEXEC
        self._above: list[tuple[int, int]] = []
        self.descriptor = os.open(directory, self._flags | os.O_DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.descriptor)

    def enter(self, name: str, flags: int = os.O_DIRECTORY) -> None:
        """Go to what has this name, which is a directory unless `flags` let it be a file."""
        found = os.open(name, self._flags | flags | os.O_NOFOLLOW, dir_fd=self.descriptor)
        if stat.S_ISLNK(os.fstat(found).st_mode):  # as opening for nothing but its path lets be
            os.close(found)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        self._above.append(_identity(self.descriptor))
        self._go_to(found)

    def leave(self) -> None:
        """Go back to the directory above."""
        above = os.open("..", self._flags | os.O_DIRECTORY, dir_fd=self.descriptor)
        if _identity(above) != self._above[-1]:
            os.close(above)
            raise OSError(errno.ENOENT, "a directory was moved meanwhile", "..")
        self._above.pop()
        self._go_to(above)

    def restart(self, directory: str) -> None:
        """Go to where it started."""
        self._above.clear()
        self._go_to(os.open(directory, self._flags | os.O_DIRECTORY))

    def _go_to(self, descriptor: int) -> None:
        os.close(self.descriptor)
        self.descriptor = descriptor


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


@contextmanager
def held(directory: str) -> Iterator[str]:
    """Give a path of a directory that stays when it is moved, and leads nowhere once it is gone.

    Where the system has no such thing, it is the path by which the directory was opened.
    """
    if not HELD:
        yield directory
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
