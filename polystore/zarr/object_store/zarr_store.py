"""Zarr stores over the objects of a URL: of what is there, and of an array not yet published."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future, wait

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from polystore.exceptions import StorageWriteError
from polystore.filesystem.temporaries import is_temporary
from polystore.zarr.array.reading import METADATA
from polystore.zarr.array.stores import ListedStore, buffer_of, wanted_part
from polystore.zarr.object_store.client import RemoteObjects

__all__ = ["RemoteStore", "UnpublishedArray"]


class RemoteStore(ListedStore):
    """Keys of zarr as objects below a key.

    Unlike zarr's own `FsspecStore`, it takes no name for a glob, and lists no lock objects.

    - `prefix`: the key below which its keys lie, ``""`` for all
    - `read_only`: whether writing is refused
    - `metadata`: the bytes of the metadata that it has, by name, if they are known; they are not
      asked for
    """

    def __init__(
        self,
        objects: RemoteObjects,
        prefix: str,
        *,
        read_only: bool = True,
        metadata: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(read_only=read_only)
        self._objects = objects
        self._prefix = prefix
        self._metadata = metadata

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and (self._objects.url, self._prefix) == (
            other._objects.url,
            other._prefix,
        )

    __hash__ = Store.__hash__

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        return RemoteStore(
            self._objects, self._prefix, read_only=read_only, metadata=self._metadata
        )

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        part = wanted_part(byte_range)
        if self._metadata is not None and key in METADATA:
            known = self._metadata.get(key)
            return buffer_of(None if known is None else known[part], prototype)
        operation = self._objects.get(self._path(key), part.start or 0, part.stop)
        return buffer_of(await self._objects.elsewhere(operation), prototype)

    async def exists(self, key: str) -> bool:
        found = await self._objects.elsewhere(self._objects.find(self._path(key)))
        return found is not None and found.kind == "file"

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await self._objects.elsewhere(self._objects.put(self._path(key), value.to_bytes()))

    async def delete(self, key: str) -> None:
        self._check_writable()
        await self._objects.elsewhere(self._objects.delete([self._path(key)]))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        directory, _, _ = prefix.rpartition("/")
        top = f"{directory}/" if directory else ""
        found = await self._objects.elsewhere(self._objects.below(self._path(directory)))
        for name in found:
            if f"{top}{name}".startswith(prefix) and not is_temporary(name.rpartition("/")[2]):
                yield f"{top}{name}"

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        operation = self._objects.entries(self._path(prefix.rstrip("/")))
        objects, directories = await self._objects.elsewhere(operation)
        for name in objects | directories:
            if not is_temporary(name):
                yield name

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._prefix, key) if part)


class UnpublishedArray(RemoteStore):
    """The store of an array that is being written: chunks go out, the metadata are kept back.

    - `metadata`: the bytes of the metadata that publish the array, by name
    - `written`: the keys of the chunks

    - `is_held`: whether the chunks are kept back too, until `release`
    """

    def __init__(self, objects: RemoteObjects, prefix: str, *, is_held: bool = False) -> None:
        self._held: dict[str, bytes] | None = {} if is_held else None
        self.metadata: dict[str, bytes] = {}
        self.written: set[str] = set()
        self._puts: set[Future[None]] = set()
        self._is_stopped = False
        self._beginning = threading.Lock()
        super().__init__(objects, prefix, read_only=False, metadata=self.metadata)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        # What else is there belongs to the array that is replaced.
        if key in self.written or key in METADATA:
            return await super().get(key, prototype, byte_range)
        return None

    async def exists(self, key: str) -> bool:
        return key in self.written or key in self.metadata

    async def set(self, key: str, value: Buffer) -> None:
        if key in METADATA:
            self.metadata[key] = value.to_bytes()
            return
        data = value.to_bytes()
        if self._held is not None:
            self._held[key] = data
            return
        with self._beginning:
            if self._is_stopped:
                raise StorageWriteError("another chunk could not be written")
            self.written.add(key)
            put = self._objects.begin(self._objects.put(self._path(key), data))
            self._puts.add(put)
        put.add_done_callback(self._puts.discard)
        await asyncio.wrap_future(put)

    async def delete(self, key: str) -> None:
        if key in self.written:
            await super().delete(key)
            self.written.discard(key)

    def release(self) -> None:
        """Put the chunks that were kept back."""
        held, self._held = self._held or {}, None
        self.written.update(held)
        puts = (self._objects.put(self._path(key), data) for key, data in held.items())
        self._objects.wait(self._objects.together(puts))

    def stop(self) -> None:
        """Let no chunk arrive any more: when one fails, zarr leaves the others on their way."""
        with self._beginning:
            self._is_stopped = True
        wait(list(self._puts))
