"""A zarr store in a directory, out of which no key and no link leads."""

from __future__ import annotations

import asyncio
import io
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from polystore.atomic import remove, temporary_name
from polystore.descent import HELD
from polystore.places import Places, RootedPlaces
from polystore.renames import publish_file

__all__ = ["RootedStore", "held_store"]

_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class RootedStore(Store):
    """Keys of zarr as files at and below a path of a rooted tree.

    Unlike zarr's own `LocalStore`, it follows no link that leads out of the root.

    Parameters
    ----------
    root : str
        The root of the tree.
    prefix : str, default "/"
        The path in the tree under which the keys lie.
    read_only : bool, default True
        Whether writing is refused.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, root: str, prefix: str = "/", *, read_only: bool = True) -> None:
        super().__init__(read_only=read_only)
        self._places: Places = RootedPlaces(root)
        self._root = root
        self._prefix = prefix.rstrip("/")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RootedStore) and (self._root, self._prefix) == (
            other._root,
            other._prefix,
        )

    __hash__ = Store.__hash__

    def with_read_only(self, read_only: bool = False) -> RootedStore:
        return RootedStore(self._root, self._prefix, read_only=read_only)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        data = await asyncio.to_thread(self._read, key, byte_range)
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._read, key, RangeByteRequest(0, 0)) is not None

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await asyncio.to_thread(self._write, key, value)

    async def delete(self, key: str) -> None:
        self._check_writable()
        await asyncio.to_thread(self._remove, key)

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        waiting = [prefix.rpartition("/")[0]]
        while waiting:
            directory = waiting.pop()
            for name, is_directory in await asyncio.to_thread(self._entries, directory):
                key = f"{directory}/{name}" if directory else name
                if is_directory:
                    waiting.append(key)
                elif key.startswith(prefix):
                    yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name, _ in await asyncio.to_thread(self._entries, prefix.rstrip("/")):
            yield name

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _read(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        try:
            with self._places.existing(self._path(key)) as place, open(place, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if isinstance(wanted, RangeByteRequest):
                    file.seek(wanted.start)
                    return file.read(wanted.end - wanted.start)
                if isinstance(wanted, OffsetByteRequest):
                    file.seek(wanted.offset)
                elif isinstance(wanted, SuffixByteRequest):
                    file.seek(max(0, size - wanted.suffix), io.SEEK_SET)
                return file.read()
        except _ABSENT:
            return None

    def _write(self, key: str, value: Buffer) -> None:
        with self._places.slot(self._path(key), make=os.mkdir) as place:
            temporary = temporary_name(place)
            try:
                with open(temporary, "xb") as file:
                    file.write(value.as_buffer_like())
                publish_file(temporary, place, overwrite=True)
            except BaseException:
                remove(temporary)
                raise

    def _remove(self, key: str) -> None:
        try:
            with self._places.itself(self._path(key)) as place:
                remove(place)
        except _ABSENT:
            return

    def _entries(self, key: str) -> Sequence[tuple[str, bool]]:
        try:
            with self._places.existing(self._path(key)) as place, os.scandir(place) as entries:
                return [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
        except _ABSENT:
            return []


def held_store(
    kind: Callable[..., RootedStore | LocalStore], directory: str, *, read_only: bool
) -> Store:
    """Return a store of a directory that it holds open as long as it is used.

    A move of the directory does not matter to it. It makes no directory anew that was deleted,
    and what zarr still writes after an error is never written elsewhere.
    """
    if not HELD:
        return kind(directory, read_only=read_only)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    store = kind(f"/proc/self/fd/{descriptor}", read_only=read_only)
    weakref.finalize(store, os.close, descriptor)
    return store
