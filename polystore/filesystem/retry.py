"""Trying once more what others were in the way of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["MOST_ATTEMPTS", "again_while_missing"]

T = TypeVar("T")

MOST_ATTEMPTS = 100
"""How often others may be in the way of an operation before it gives up."""


def again_while_missing(attempt: Callable[[], T]) -> T:
    """Try what makes its directories once more, if one of them went before it was used."""
    for _ in range(MOST_ATTEMPTS):
        with suppress(FileNotFoundError):
            return attempt()
    return attempt()
