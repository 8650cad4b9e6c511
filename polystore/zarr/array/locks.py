"""Locks of a zarr array: one writer at a time of a shard, and one of the shape.

The shards of an array share a fixed number of locks, so that a small array has few lock files and
one with a million shards no more than that. Which lock is a shard's depends on its place alone,
never on the shape, which others may change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack

import numpy as np

__all__ = ["LOCKS", "Locks", "lock_of"]

LOCKS = 64
"""How many locks the shards of an array share."""

# Odd and far apart, so that the shards of a row, a column or a block have different locks.
_STEPS = (1, 11, 37, 23, 53, 29)


def lock_of(shards: Iterable[Iterable[int]]) -> list[int]:
    """Return the numbers of the locks of some shards, sorted.

    - `shards`: for each axis, the indices along it; the shards are those at every combination

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
    """The locks of one array. Lock order: shape first, then shards."""

    @abstractmethod
    def shape(self) -> ExitStack:
        """Hold the lock of the shape until the stack that is returned is closed."""

    @abstractmethod
    def shards(self, numbers: Iterable[int]) -> ExitStack:
        """Hold the locks of these numbers, of `lock_of`, until the stack is closed."""

    def all_shards(self) -> ExitStack:
        """Hold the locks of all shards."""
        return self.shards(range(LOCKS))
