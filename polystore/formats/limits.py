"""Limits of the memory that a compressed file may use."""

from __future__ import annotations

import math

from polystore.exceptions import CorruptDataError

__all__ = ["ANY_FILE", "DEFLATE", "MOST_DECODED", "check_declared_size"]

DEFLATE = 1100.0
"""The most that Deflate can compress, 1032 times, with a margin for headers."""
ANY_FILE = 2**24
"""Bytes of memory that every file may use, however small it is."""
MOST_DECODED = 2**32
"""The most bytes that a small compressed file may decode to."""


def check_declared_size(declared: int, stored: int, most: float = math.inf) -> None:
    """Refuse compressed data that declares a larger size than it can hold.

    - `declared`, `stored`: the declared decoded size and the stored size, in bytes
    - `most`: the largest factor of the compression. Beyond `MOST_DECODED` bytes, the factor is at
      most 100

    Raises `CorruptDataError` if the declared size is too large; no memory was allocated.
    """
    believed = max(ANY_FILE, most * stored)
    if declared > min(believed, max(MOST_DECODED, 100 * stored)):
        raise CorruptDataError(
            f"{stored} bytes declare {declared} decoded bytes: damage, or a decompression bomb"
        )
