"""Zarr arrays as they are stored: metadata and chunks that are copied without decoding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zarr.abc.store import Store
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from polystore.exceptions import StorageResolutionError
from polystore.zarr.array.creation import ZarrFormat
from polystore.zarr.array.reading import is_chunk

__all__ = ["ArrayChangedError", "Packed", "StoredArray", "copy_stored", "packed", "unpacked"]

_CONCURRENT_CHUNKS = 8  # chunks
_METADATA: dict[ZarrFormat, tuple[str, ...]] = {3: ("zarr.json",), 2: (".zarray", ".zattrs")}


class ArrayChangedError(StorageResolutionError):
    """An array was replaced or cut off during a copy."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """The stored form of an array.

    - `store`: the store of this array alone
    - `is_still_there`: returns False if the array was replaced or cut off since
    """

    store: Store
    zarr_format: ZarrFormat
    is_still_there: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Packed:
    """The stored form of an array, or of a group without its members, for another process.

    - `contents`: the metadata and chunks, by key
    - `is_group`: whether it is a group
    """

    contents: Mapping[str, bytes]
    is_group: bool

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.contents.values()))


def packed(array: StoredArray) -> Packed:
    """Return the stored form of an array as one value.

    Raises `ArrayChangedError` if the array was replaced concurrently.
    """
    held: dict[str, Buffer] = {}
    copy_stored(array, MemoryStore(held))
    return Packed({key: value.to_bytes() for key, value in held.items()}, is_group=False)


def unpacked(array: Packed) -> StoredArray:
    """Return a packed array in a store in memory."""
    held: dict[str, Buffer] = {
        key: cpu.Buffer.from_bytes(data) for key, data in array.contents.items()
    }
    return StoredArray(MemoryStore(held), 3 if "zarr.json" in held else 2, lambda: True)


def copy_stored(array: StoredArray, target: Store) -> None:
    """Copy the metadata and the chunks of an array into an empty store.

    Raises `ArrayChangedError` if the array was replaced concurrently. The copy is useless then.
    """
    sync(_copy(array.store, target, _METADATA[array.zarr_format]))
    if not array.is_still_there():
        raise ArrayChangedError("the array changes faster than it can be copied")


async def _copy(source: Store, target: Store, metadata: tuple[str, ...]) -> None:
    # Metadata first: all chunks that it shows exist by then, also if the array grows.
    for name in metadata:
        await _copy_key(source, target, name)
    chunks = [key async for key in source.list() if is_chunk(key)]
    for start in range(0, len(chunks), _CONCURRENT_CHUNKS):
        some = chunks[start : start + _CONCURRENT_CHUNKS]
        await asyncio.gather(*(_copy_key(source, target, key) for key in some))


async def _copy_key(source: Store, target: Store, key: str) -> None:
    value = await source.get(key, default_buffer_prototype())
    if value is not None:
        await target.set(key, value)
