"""Buffers of zarr from the bytes of stored values, and back."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.codecs import BytesCodec
from zarr.core.buffer import Buffer, BufferPrototype, cpu, default_buffer_prototype

__all__ = ["Bytes", "buffer_of", "bytes_of", "is_plain"]

Bytes = npt.NDArray[np.uint8]


def buffer_of(
    value: Bytes | None, wanted: slice, prototype: BufferPrototype | None
) -> Buffer | None:
    """Return a part of a value as a buffer, None for a missing value."""
    if value is None:
        return None
    kind = (prototype or default_buffer_prototype()).buffer
    if issubclass(kind, cpu.Buffer):
        return kind.from_array_like(value[wanted])
    return kind.from_buffer(cpu.Buffer.from_array_like(value[wanted]))  # a copy, as for a GPU


def is_plain(codecs: Iterable[Any]) -> bool:
    """Return whether codecs leave values as their bytes, in C order and native byte order."""
    first, *more = codecs
    if more or not isinstance(first, BytesCodec):
        return False
    return first.endian is None or getattr(first.endian, "value", first.endian) == sys.byteorder


def bytes_of(value: Buffer) -> Bytes:
    """Return the bytes of a buffer."""
    if not isinstance(value, Buffer):
        raise TypeError(f"a zarr store takes a Buffer, not a {type(value).__name__}")
    return value.as_numpy_array().view(np.uint8)
