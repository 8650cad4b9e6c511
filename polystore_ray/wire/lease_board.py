"""The lease board: memory by which a volume tells the processes of its node what has changed.

A process may answer a repeated read from its own cache while the *read lease* of its node lasts and
the number of the path on the node's board is what it was before the read was asked. It is another
one before the store acknowledges that the path has changed: the volume sees to that, or the process
that made the change. The volume lets the lease run out where it cannot know.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["LEASE", "LeaseBoard", "Mark", "WritableLeaseBoard", "first_term", "now"]

LEASE = 3.0
"""Seconds that a node may read from its caches after it asked for the lease."""

_COUNTERS = 2**16  # numbers; paths that share one only cause each other needless calls
_UNTIL, _GENERATION, _TERM, _FIRST = range(4)  # places, in numbers of 8 bytes
_BYTES = 8 * (_FIRST + _COUNTERS)

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while a machine sleeps


def now() -> int:
    """Return the time by the clock that the processes of a node share, in nanoseconds."""
    return time.clock_gettime_ns(_CLOCK)


def first_term(epoch: int) -> int:
    """Return the least term of the leases that a controller of this epoch grants."""
    return epoch << 32


class Mark(NamedTuple):
    """What a board said of a path before a read of it was asked."""

    place: int
    counter: int
    generation: int
    term: int


class LeaseBoard:
    """A board as the processes of a node read it.

    - `memory`: the board's memory, shared with the volume
    """

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._numbers = memoryview(memory).cast("Q")

    @classmethod
    def at(cls, path: str) -> LeaseBoard:
        """Return the board in a file; raise `OSError` where there is none."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(mmap.mmap(descriptor, _BYTES))
        finally:
            os.close(descriptor)

    @property
    def is_live(self) -> bool:
        """Whether the lease lasts."""
        return now() < self._numbers[_UNTIL]

    @property
    def term(self) -> int:
        """The term of the lease; 0 for none."""
        return self._numbers[_TERM]

    def spoil(self, paths: Iterable[str]) -> None:
        """Have nobody use what was read of these paths.

        Any other number will do. Of two processes that write at once, each writes one of its own,
        so that no order of theirs brings an earlier number back.
        """
        for path in paths:
            self._numbers[self.mark(path).place] = int.from_bytes(os.urandom(8), sys.byteorder)

    def mark(self, path: str) -> Mark:
        """Return what there is to compare later; call it before a read of `path` is asked."""
        numbers = self._numbers
        # The generation first: a new term begins with a new generation.
        generation = numbers[_GENERATION]
        place = _FIRST + zlib.crc32(path.encode("utf-8", "surrogatepass")) % _COUNTERS
        return Mark(place, numbers[place], generation, numbers[_TERM])

    def allows(self, mark: Mark) -> bool:
        """Return whether what was read after this mark still held at a moment of this call."""
        numbers = self._numbers
        # The clock last: whoever stops between these lines finds the lease over. The lease first:
        # a renewal that comes in between may follow changes that the counters did not show yet.
        until = numbers[_UNTIL]
        place, counter, generation, _ = mark
        return numbers[place] == counter and numbers[_GENERATION] == generation and now() < until


class WritableLeaseBoard(LeaseBoard):
    """A board as its volume writes it. Its lease is over until it is renewed.

    - `path`: the file to make, which `close` removes; without it only this process can read the
      board
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._least = 0  # terms below it are those of former controllers
        if path is None:
            super().__init__(bytearray(_BYTES))
            return
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Allocated, since a full disk would end whoever writes into a hole.
            os.posix_fallocate(descriptor, 0, _BYTES)
            super().__init__(mmap.mmap(descriptor, _BYTES))
        finally:
            os.close(descriptor)

    def renew(self, term: int, asked: int, changed: Iterable[str] | None) -> None:
        """Let the lease last `LEASE` seconds from the moment in which it was asked for.

        - `term`: the lease's term; another one than before ends all that was read under that
        - `asked`: when it was asked for, by `now`
        - `changed`: paths that have changed and may not have been counted; None for any
        """
        numbers = self._numbers
        with self._lock:
            if term < self._least:
                return
            if term != numbers[_TERM]:
                self._begin(term)
            self._count(changed)
            numbers[_UNTIL] = max(numbers[_UNTIL], asked + int(LEASE * 1e9))

    def count(self, term: int, changed: Iterable[str] | None) -> bool:
        """Have nobody use what was read of these paths, None for any; return whether it is done.

        It is not if the lease has another term.
        """
        with self._lock:
            if term != self._numbers[_TERM]:
                return False
            self._count(changed)
            return True

    def end(self, least: int = 0) -> None:
        """End the lease at once; refuse terms below `least` from now on."""
        with self._lock:
            self._least = max(self._least, least)
            self._begin(0)

    def close(self) -> None:
        """End the lease, and remove the file."""
        self.end(2**64)
        if self._path is not None:
            os.unlink(self._path)
            self._path = None

    def _begin(self, term: int) -> None:
        self._numbers[_UNTIL] = 0
        self._numbers[_GENERATION] += 1
        self._numbers[_TERM] = term

    def _count(self, changed: Iterable[str] | None) -> None:
        if changed is None:
            self._numbers[_GENERATION] += 1
            return
        self.spoil(changed)
