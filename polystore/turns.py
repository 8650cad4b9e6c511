"""Turns at a file: one thread or process after another changes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["turn"]


@contextmanager
def turn(place: str) -> Iterator[os.stat_result]:
    """Give the status of a file, and let no other have a turn at it during the block.

    By then another may have its name. A turn ends with the process at the latest. Where the system
    or the file system has no such locks, nobody waits.
    """
    with open(place, "rb") as file:
        _lock(file.fileno())
        yield os.fstat(file.fileno())


if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        """Let everybody pass: Windows refuses to replace a file that is locked."""

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        with suppress(OSError):  # a network file system may have none
            fcntl.flock(descriptor, fcntl.LOCK_EX)
