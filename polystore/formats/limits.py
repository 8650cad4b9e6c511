"""Limits: how much memory a compressed file may ask for."""

from __future__ import annotations

import math

from polystore.exceptions import CorruptDataError

__all__ = ["ANY_FILE", "DEFLATE", "MOST_DECODED", "check_declared_size"]

DEFLATE = 1100.0
"""More than Deflate can compress: 1032 times, and some for what lies around it."""
ANY_FILE = 2**24
"""Bytes of memory that any file may ask for, however small it is."""
MOST_DECODED = 2**32
"""Bytes that a small compressed file may decode to; a larger image has a file to match."""


def check_declared_size(declared: int, stored: int, most: float = math.inf) -> None:
    """Refuse compressed data that claims to hold far more than it could.

    Parameters
    ----------
    claimed, stored : int
        Bytes, decoded and as they are.
    most : float, optional
        How many times its size the compression can hold at most. Beyond `MOST_DECODED` bytes,
        100 times is believed of any.

    Raises
    ------
    CorruptDataError
        Before any memory is taken.
    """
    believed = max(ANY_FILE, most * stored)
    if declared > min(believed, max(MOST_DECODED, 100 * stored)):
        raise CorruptDataError(
            f"{stored} bytes claim to hold {declared}: damage, or a decompression bomb"
        )
