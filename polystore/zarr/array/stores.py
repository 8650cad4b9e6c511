"""What stores of zarr have in common: parts of values, buffers, and listing by prefix."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

__all__ = ["ListedStore", "buffer_of", "wanted_part"]


class ListedStore(Store):
    """A store that is written to, deleted from and listed; `list_prefix` lists it."""

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        wanted = (self.get(key, prototype, part) for key, part in key_ranges)
        return list(await asyncio.gather(*wanted))

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key


def wanted_part(byte_range: ByteRequest | None) -> slice:
    """Return which part of a value zarr asks for."""
    if byte_range is None:
        return slice(None)
    if isinstance(byte_range, RangeByteRequest):
        return slice(byte_range.start, byte_range.end)
    if isinstance(byte_range, OffsetByteRequest):
        return slice(byte_range.offset, None)
    if isinstance(byte_range, SuffixByteRequest):
        return slice(-byte_range.suffix, None) if byte_range.suffix else slice(0)
    raise TypeError(f"Unexpected byte_range, got {byte_range}.")


def buffer_of(data: bytes | None, prototype: BufferPrototype | None) -> Buffer | None:
    """Return the bytes of a value as a buffer, None for a missing value."""
    if data is None:
        return None
    return (prototype or default_buffer_prototype()).buffer.from_bytes(data)
