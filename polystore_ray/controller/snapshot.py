"""Snapshots: the whole state of a controller in parts, taken while calls go on.

A state of millions of entries takes seconds to pickle. As a database does it (Redis' ``BGSAVE``), a
large one is pickled by a forked child, whose memory is the state of the moment of the fork; the
parent stalls for the fork alone. It is unpickled from parts, between which other threads run.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from polystore_ray.wire.decoding import decode_state, encode_state

__all__ = ["parts_of", "state_of"]

_PART = 4 * 2**20  # bytes
_LARGE = 20_000  # entries, from which on a child pickles them: about 0.05 s


def parts_of(state: Any, entries: int) -> Iterator[bytes]:
    """Return a state of so many entries in parts.

    It is that of the moment of this call, for which the caller holds the lock of the state; the
    parts may be taken later.
    """
    if entries < _LARGE:
        whole = io.BytesIO()
        encode_state(state, whole)
        return _cut(whole.getvalue())
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python warns of a fork beside threads; the child uses nothing that they may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _write_and_exit(state, writing)
    os.close(writing)
    return _read(child, reading)


def _cut(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _PART] for start in range(0, len(data), _PART))


def _write_and_exit(state: Any, writing: int) -> None:
    """Write a state in the child, and end it without any clean-up of the parent's."""
    try:
        # The parent's connections must not stay open in the child after the parent has died.
        os.closerange(3, writing)
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        gc.disable()
        with open(writing, "wb", buffering=_PART) as file:
            encode_state(state, file)
        os._exit(0)
    finally:
        os._exit(1)


def _read(child: int, reading: int) -> Iterator[bytes]:
    complete = False
    try:
        with open(reading, "rb", buffering=0) as file:
            reader = io.BufferedReader(file, _PART)
            while part := reader.read(_PART):
                yield part
        complete = True
    finally:
        if not complete:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if status:
        raise OSError(f"the process that took a snapshot ended with status {status}")


def state_of(parts: Iterable[bytes]) -> Any:
    """Return the state that was taken apart; other threads run between its parts."""
    collecting = gc.isenabled()
    gc.disable()  # millions of objects without a cycle would be searched for some, again and again
    try:
        state = decode_state(_Parts(parts))
        if collecting:
            gc.freeze()
    finally:
        if collecting:
            gc.enable()
    return state


class _Parts:
    """Parts as one file. Its methods are Python's, so that other threads get their turn there."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = iter(parts)
        self._part = io.BytesIO()

    def read(self, size: int) -> bytes:
        found = self._part.read(size)
        while len(found) < size:
            part = next(self._parts, None)
            if part is None:
                return found
            self._part = io.BytesIO(part)
            found += self._part.read(size - len(found))
        return found

    def readline(self) -> bytes:
        line = self._part.readline()
        while not line.endswith(b"\n"):
            part = next(self._parts, None)
            if part is None:
                return line
            self._part = io.BytesIO(part)
            line += self._part.readline()
        return line
