"""The allocator of a host's process: what large arrays took goes back to the system at once."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["give_back_at_once"]

_MMAP_THRESHOLD = -3  # as malloc.h numbers it
_LARGE = 2**20  # bytes


def give_back_at_once() -> None:
    """Let memory of 1 MiB and more be the system's again when it is freed.

    Of itself glibc keeps what threads free, up to 32 MiB an array, each thread for itself.
    Measured: after batches of 288 MiB, loaded in pieces by several threads, 255 MiB stayed.
    """
    with suppress(AttributeError):  # another C library, which has no such option
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
