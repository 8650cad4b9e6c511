"""The envelope in which a sealed value lies in Ray's object store, or travels in a call.

It opens to the value in every process that gets it, so a reference to it is a reference to the
value; in the process of a volume, which does not need the value, it stays closed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from polystore.exceptions import CorruptDataError, StorageError
from polystore.serialization import (
    Sealed,
    describe_dtype,
    described_dtype,
    plain_bytes,
    seal,
    view_of,
)

__all__ = [
    "SMALL",
    "Envelope",
    "Message",
    "array_message",
    "arrived",
    "as_message",
    "closed",
    "keep_closed",
    "message_of",
    "open_message",
    "sealed_message",
]

# Up to this size in bytes a value travels inside the call; beyond it, as an object of its own.
SMALL = 64 * 1024

# A small value as bytes, or a large one alone in a tuple.
Message = bytes | tuple[Any]

_ARRAY = b"A"  # what a pickle never begins with
_ALIGNED = 16  # bytes

_always_closed = False
_closed = ContextVar("closed", default=False)


def keep_closed() -> None:
    """Let envelopes stay closed in this process from now on."""
    global _always_closed  # noqa: PLW0603 - what a process is for does not change in its life
    _always_closed = True


@contextmanager
def closed() -> Iterator[None]:
    """Let envelopes that this thread or task receives stay closed for a while.

    Ray unpickles in the thread that waits for a value.
    """
    token = _closed.set(True)
    try:
        yield
    finally:
        _closed.reset(token)


class Envelope:
    """A sealed value whose buffers Ray stores without a further copy."""

    __slots__ = ("sealed",)

    def __init__(self, sealed: Sealed) -> None:
        self.sealed = sealed

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (
            pickle.PickleBuffer(self.sealed.head),
            *map(pickle.PickleBuffer, self.sealed.buffers),
        )


def _arrive(head: Any, *buffers: Any) -> Any:
    return arrived(Sealed(head, buffers))


def arrived(sealed: Sealed) -> Any:
    """Return the value of an envelope, or the envelope where it is to stay closed."""
    return Envelope(sealed) if _always_closed or _closed.get() else sealed.open()


def as_message(value: Any) -> Message:
    """Return `value` as a message for `open_message`: one bytes object where it is small."""
    return message_of(seal(value))


def message_of(sealed: Sealed) -> Message:
    """Return the message of a sealed value."""
    return sealed_message(sealed) if sealed.nbytes <= SMALL else (Envelope(sealed),)


def sealed_message(sealed: Sealed) -> bytes:
    """Return a sealed value as one bytes object."""
    return pickle.dumps((plain_bytes(sealed.head), *map(plain_bytes, sealed.buffers)), protocol=5)


def array_message(array: npt.NDArray[Any]) -> bytes:
    """Return an array that is its bytes (`polystore.serialization.is_raw`) as one bytes object."""
    order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    return _header(array.dtype, array.shape, order) + array.tobytes(order)


def open_message(message: Message, loads: Callable[..., Any] = pickle.loads) -> Any:
    """Return the value of a message; the envelope of a large one has opened on arrival.

    Raises `StorageError` same as for `Sealed.open`.
    """
    if isinstance(message, tuple):
        return message[0]
    try:
        if message[:1] == _ARRAY:
            end = int.from_bytes(message[1:5], "little")
            dtype, shape, order = _described(message[5:end], loads)
            return view_of(message, dtype, shape, order, end)
        head, *buffers = loads(message)
        sealed = Sealed(head, tuple(buffers))
    except (TypeError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise CorruptDataError(f"the saved value is damaged ({error})") from error
    return sealed.open(loads)


@lru_cache(maxsize=1024)  # most arrays are like others
def _header(dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> bytes:
    kind = pickle.dumps((describe_dtype(dtype), shape, order), protocol=5)
    kind += bytes(-(5 + len(kind)) % _ALIGNED)  # what follows a pickle's end is not read
    return _ARRAY + (5 + len(kind)).to_bytes(4, "little") + kind


@lru_cache(maxsize=1024)
def _described(
    kind: bytes, loads: Callable[..., Any]
) -> tuple[np.dtype[Any], tuple[int, ...], Any]:
    description, shape, order = loads(kind)
    return described_dtype(description), shape, order
