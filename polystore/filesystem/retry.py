"""Reads that are tried again when another operation got in their way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from polystore.exceptions import StorageError, StorageResolutionError

__all__ = ["MOST_ATTEMPTS", "read_until_stable"]

S = TypeVar("S")
T = TypeVar("T")

MOST_ATTEMPTS = 100
"""How often others may get in the way of an operation before it gives up."""


def read_until_stable(
    look: Callable[[], AbstractContextManager[S]],
    read: Callable[[S], T],
    is_still: Callable[[S], bool],
) -> T:
    """Look at something and read it, and do so again while it changes before the end.

    What ``read(state)`` raises is an error only if ``is_still(state)`` afterwards.

    Raises `StorageResolutionError` if it changed during each of 100 attempts.
    """
    for _ in range(MOST_ATTEMPTS):
        with look() as state:
            try:
                value = read(state)
            except StorageError:
                if is_still(state):
                    raise
            else:
                if is_still(state):
                    return value
    raise StorageResolutionError("the value changes faster than it can be read")
