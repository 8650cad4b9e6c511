"""The file of many objects: their sealed bytes one after another, each after a header in JSON.

A header is 8 bytes, the length of its JSON as a little-endian number, and the JSON: the object's id
and the sizes of its head and its buffers, whose bytes follow. They are the bytes that the store
holds. Nothing here opens them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from polystore.exceptions import CorruptDataError
from polystore.serialization import Sealed

__all__ = ["objects_in", "pieces_of"]

_LENGTH = 8  # bytes
_LONGEST = 2**30  # bytes of a header that are believed


def pieces_of(objects: Iterable[tuple[str, Sealed]]) -> Iterator[Any]:
    """Yield the bytes of objects, given with their ids, as pieces of a file."""
    for id_, sealed in objects:
        buffers = [_flat(sealed.head), *map(_flat, sealed.buffers)]
        header = json.dumps({"object": id_, "sizes": [len(buffer) for buffer in buffers]}).encode()
        yield len(header).to_bytes(_LENGTH, "little") + header
        yield from buffers


def _flat(buffer: Any) -> memoryview:
    if isinstance(buffer, pickle.PickleBuffer):
        return buffer.raw()
    return memoryview(buffer).cast("B")


def objects_in(data: memoryview) -> Iterator[tuple[str, Sealed]]:
    """Yield the objects in a file with their ids; their buffers are views of `data`.

    Raises `CorruptDataError` if the file is damaged.
    """
    at = 0
    while at < len(data):
        start = at + _LENGTH
        at = start + min(int.from_bytes(data[at:start], "little"), _LONGEST)
        try:
            header = json.loads(bytes(data[start:at]))
            id_, sizes = header["object"], header["sizes"]
            ends = [at := at + _size(size) for size in sizes]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CorruptDataError(f"a header in the file is damaged ({error})") from error
        if not isinstance(id_, str) or not sizes or at > len(data):
            raise CorruptDataError("an object ends outside the file, or has no name or no bytes")
        head, *buffers = [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        yield id_, Sealed(bytes(head), tuple(buffers))


def _size(size: Any) -> int:
    if type(size) is not int or size < 0:
        raise ValueError(f"{size!r} is not a size")
    return size
