"""A zarr store in a directory, out of which no key and, below a root, no link leads."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from polystore.filesystem.dir_fd import Held
from polystore.filesystem.path_resolver import Places, RootedPlaces, SystemPlaces
from polystore.zarr.local.key_files import KeyFiles

__all__ = ["TreeStore", "files_in", "held_store"]


class TreeStore(Store):
    """Keys of zarr as files at and below a path.

    Unlike zarr's own `LocalStore`, it opens files alone, never a pipe or a device, and below a
    root it follows no link that leads out.

    Parameters
    ----------
    root : str, optional
        The root of the tree; without it, the prefix is a path of the system.
    prefix : str, default "/"
        The path in the tree under which the keys lie.
    read_only : bool, default True
        Whether writing is refused.
    files : KeyFiles, optional
        What reads and writes, if it is there already.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(
        self,
        root: str | None,
        prefix: str = "/",
        *,
        read_only: bool = True,
        files: KeyFiles | None = None,
    ) -> None:
        super().__init__(read_only=read_only)
        self._root, self._prefix = root, prefix
        places: Places = SystemPlaces() if root is None else RootedPlaces(root)
        self._files = files or KeyFiles(places, prefix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreeStore) and (self._root, self._prefix) == (
            other._root,
            other._prefix,
        )

    __hash__ = Store.__hash__

    def with_read_only(self, read_only: bool = False) -> TreeStore:
        return TreeStore(self._root, self._prefix, read_only=read_only, files=self._files)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        data = await asyncio.to_thread(self._files.read, key, byte_range)
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._files.exists, key)

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await asyncio.to_thread(self._files.write, key, value)

    async def delete(self, key: str) -> None:
        self._check_writable()
        await asyncio.to_thread(self._files.remove, key)

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        if prefix.strip("/"):
            await asyncio.to_thread(self._files.remove, prefix.rstrip("/"))
        else:
            await super().delete_dir(prefix)

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        waiting = [prefix.rpartition("/")[0]]
        while waiting:
            directory = waiting.pop()
            for name, is_directory in await asyncio.to_thread(self._files.entries, directory):
                key = f"{directory}/{name}" if directory else name
                if is_directory:
                    waiting.append(key)
                elif key.startswith(prefix):
                    yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name, _ in await asyncio.to_thread(self._files.entries, prefix.rstrip("/")):
            yield name


def files_in(directory: Held, *, rooted: bool) -> KeyFiles:
    """Return the files of a directory that the caller keeps open.

    If there is a root, no link of the directory leads out of it.
    """
    if rooted:
        return KeyFiles(RootedPlaces(directory), "/")
    return KeyFiles(SystemPlaces(), directory.path)


def held_store(directory: Held, *, rooted: bool, read_only: bool) -> TreeStore:
    """Return a store of a directory that it holds open as long as it is used.

    A move of the directory does not matter to it. It makes no directory anew that was deleted,
    and what zarr still writes after an error is never written elsewhere.
    """
    held = directory.again()
    root, prefix = (held.path, "/") if rooted else (None, held.path)
    files = files_in(held, rooted=rooted)
    weakref.finalize(files, held.close)
    return TreeStore(root, prefix, read_only=read_only, files=files)
