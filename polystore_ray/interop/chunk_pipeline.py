"""A codec pipeline of zarr for stores that read and write many chunks in one request.

zarr's own pipelines ask a store for one chunk after another, and write a chunk of which a selection
covers a part over whatever is there by then. This one asks for all chunks of a selection at once,
lets zarr decode, merge and encode them in memory, and publishes what was changed in one step, if
what was read is still there; otherwise it does so again.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import zarr.core.codec_pipeline
from zarr.abc.store import ByteRequest
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath

from polystore.exceptions import VersionConflictError
from polystore.zarr.array.stores import ListedStore, wanted_part
from polystore_ray.deadline import Deadline
from polystore_ray.errors import CallTimeoutError
from polystore_ray.interop.zarr_buffers import Bytes, buffer_of, bytes_of, is_plain

__all__ = ["ChunkPipeline", "ChunkStore"]

_READ_BYTES = 64 * 2**20  # decoded bytes of chunks that are read in one request
_WRITTEN_BYTES = 32 * 2**20  # and of those that are written in one
_LONGEST_PAUSE = 1.0  # seconds

_Batched: Any = zarr.core.codec_pipeline.BatchedCodecPipeline
_Zarrs: Any = getattr(zarr.core.codec_pipeline, "FusedCodecPipeline", _Batched)


class ChunkStore(ListedStore):
    """A store of zarr that reads and writes the values of many keys in one request."""

    @property
    @abstractmethod
    def deadline(self) -> Deadline:
        """The deadline of a write that begins now."""

    @abstractmethod
    def load_chunks(self, keys: Sequence[str]) -> tuple[Sequence[Bytes | None], Sequence[int]]:
        """Return the values of some keys and their versions; None and 0 for a missing key."""

    @abstractmethod
    def save_chunks(
        self, keys: Sequence[str], values: Sequence[Bytes], versions: Sequence[int | None]
    ) -> None:
        """Save all values or none.

        Raises `VersionConflictError` if a key has another version than the one given for it; None
        stands for any.
        """

    @abstractmethod
    def delete_chunks(self, keys: Sequence[str]) -> None:
        """Delete keys, of which some may be missing."""


class _Item(NamedTuple):
    """A chunk and what zarr does with it."""

    path: StorePath
    spec: ArraySpec
    inside: Any
    outside: Any
    is_complete: bool = False


class _Chunk:
    """The bytes of a chunk, as zarr takes them from a store and gives them back."""

    def __init__(self, value: Bytes | None) -> None:
        self.value = value
        self.is_changed = False

    async def get(
        self, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return self.get_sync(prototype=prototype, byte_range=byte_range)

    async def set(self, value: Buffer) -> None:
        self.set_sync(value)

    async def delete(self) -> None:
        self.delete_sync()

    def get_sync(
        self, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return buffer_of(self.value, wanted_part(byte_range), prototype)

    def set_sync(self, value: Buffer) -> None:
        self.value, self.is_changed = bytes_of(value), True

    def delete_sync(self) -> None:
        self.value, self.is_changed = None, True


class ChunkPipeline(_Zarrs):  # type: ignore[misc]
    """The fastest pipeline that zarr has, over the chunks of many keys at once."""

    async def read(
        self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()
    ) -> tuple[Any, ...]:
        batch, store = _taken(batch_info)
        if store is None:
            return await super().read(batch, out, drop_axes) or ()
        results: list[Any] = []
        for group in _groups(batch, _READ_BYTES):
            values, _ = await asyncio.to_thread(store.load_chunks, _keys(group))
            if _Zarrs is _Batched and is_plain(self):
                await asyncio.to_thread(_copy_all, group, values, out, drop_axes)
                continue
            loaded = [(_Chunk(v), *item[1:]) for item, v in zip(group, values, strict=True)]
            results += await super().read(loaded, out, drop_axes) or ()
        return tuple(results)

    async def write(
        self, batch_info: Iterable[Any], value: Any, drop_axes: tuple[int, ...] = ()
    ) -> None:
        batch, store = _taken(batch_info)
        if store is None:
            await super().write(batch, value, drop_axes)
            return
        for group in _groups(batch, _WRITTEN_BYTES):
            await self._write_group(store, group, value, drop_axes)

    async def _write_group(
        self, store: ChunkStore, group: list[_Item], value: Any, drop_axes: tuple[int, ...]
    ) -> None:
        """Write chunks, again while other writers change those that are written in part."""
        deadline = store.deadline
        for failed in itertools.count():
            start = time.monotonic()
            try:
                await self._write_once(store, group, value, drop_axes)
            except VersionConflictError as error:
                # By chance, and longer after more failures, so that one of several is done.
                took = time.monotonic() - start
                longest = min(_LONGEST_PAUSE, took * 2 ** min(failed, 10))
                pause = random.uniform(0, longest)  # noqa: S311 - no secret
                if pause >= deadline.left:
                    raise CallTimeoutError(
                        "other writers changed the same chunks until the deadline; write regions "
                        "that fit the chunks",
                        path=error.path,
                        backend="memory",
                    ) from error
                await asyncio.sleep(pause)
            else:
                return

    async def _write_once(
        self, store: ChunkStore, group: list[_Item], value: Any, drop_axes: tuple[int, ...]
    ) -> None:
        versions: list[int | None] = [None] * len(group)
        chunks = [_Chunk(None) for _ in group]
        parts = [i for i, item in enumerate(group) if not item.is_complete]
        if parts:
            found = await asyncio.to_thread(store.load_chunks, _keys(group[i] for i in parts))
            for i, old, version in zip(parts, *found, strict=True):
                chunks[i], versions[i] = _Chunk(old), version
        items = [
            (chunk, _kept(item.spec) if version else item.spec, *item[2:])
            for item, chunk, version in zip(group, chunks, versions, strict=True)
        ]
        await super().write(items, value, drop_axes)
        changed = [
            (item.path.path, chunk.value, version)
            for item, chunk, version in zip(group, chunks, versions, strict=True)
            if chunk.is_changed
        ]
        saved = [(key, new, version) for key, new, version in changed if new is not None]
        # What was written in part and is empty now, was missing before.
        gone = [key for key, new, version in changed if new is None and version is None]
        if saved:
            await asyncio.to_thread(store.save_chunks, *map(list, zip(*saved, strict=True)))
        if gone:
            await asyncio.to_thread(store.delete_chunks, gone)


def _taken(batch_info: Iterable[Any]) -> tuple[list[Any], ChunkStore | None]:
    """Return what zarr reads or writes, and the store, if it takes many chunks at once."""
    batch = list(batch_info)
    place = batch[0][0] if batch else None
    store = place.store if isinstance(place, StorePath) else None
    if isinstance(store, ChunkStore):
        return [_Item(*item) for item in batch], store
    return batch, None


def _groups(items: Sequence[_Item], most: int) -> Iterator[list[_Item]]:
    """Yield items in groups of about so many decoded bytes."""
    rest = iter(items)
    for first in rest:
        nbytes = math.prod(first.spec.shape) * first.spec.dtype.to_native_dtype().itemsize
        yield [first, *itertools.islice(rest, max(0, most // max(1, nbytes) - 1))]


def _copy_all(
    items: Sequence[_Item], values: Sequence[Bytes | None], out: Any, drop_axes: tuple[int, ...]
) -> None:
    """Copy plain chunks in threads; the pipeline of older zarr does so in its event loop."""

    def copy(item: _Item, value: Bytes | None) -> None:
        if value is None:
            out[item.outside] = item.spec.fill_value
            return
        chunk = value.view(item.spec.dtype.to_native_dtype()).reshape(item.spec.shape)
        part = item.spec.prototype.nd_buffer.from_numpy_array(chunk)[item.inside]
        out[item.outside] = part.squeeze(axis=drop_axes) if drop_axes else part

    with ThreadPoolExecutor(os.cpu_count() or 1, "polystore-chunks") as threads:
        list(threads.map(copy, items, values))


def _keys(items: Iterable[_Item]) -> list[str]:
    return [item.path.path for item in items]


def _kept(spec: ArraySpec) -> ArraySpec:
    """Return how a chunk is encoded that is there and stays, whatever it holds.

    zarr would delete it where it holds fill values only, whoever has written it since.
    """
    return replace(spec, config=replace(spec.config, write_empty_chunks=True))
