"""A zarr store in a directory, out of which no key and, below a root, no link leads."""

from __future__ import annotations

import asyncio
import math
import os
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import numpy as np
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from polystore.exceptions import CorruptDataError, UnsupportedFormatError
from polystore.filesystem.dir_fd import Handle, Location, check_no_device
from polystore.filesystem.path_resolver import PathResolver, RootedResolver, SystemResolver
from polystore.filesystem.temporaries import publish_file, remove, temporary
from polystore.zarr.array.groups import MOST_METADATA
from polystore.zarr.array.reading import METADATA, described
from polystore.zarr.array.stores import ListedStore, buffer_of, wanted_part

__all__ = ["KeyFiles", "TreeStore", "files_in", "held_store"]

_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_LARGE = 2**24  # bytes; nothing smaller is compared with what metadata allow
_PER_ITEM = 128  # bytes that codecs and the index of a shard may add to the smallest chunk


class KeyFiles:
    """Keys of zarr as files.

    Of a file no more is read than the metadata of its array allow.

    - `prefix`: the path below which the keys lie
    """

    def __init__(self, resolver: PathResolver, prefix: str) -> None:
        self._resolver = resolver
        self._prefix = prefix.rstrip("/")

    def read(self, key: str, wanted: ByteRequest | None = None) -> bytes | None:
        """Return what is at a key, or a part of it; None where no file is.

        Raises `CorruptDataError` if it is a pipe, a socket or a device, or more than the metadata
        allow; `InvalidPathError` if a link leads out of a root.
        """
        try:
            with self._resolver.open(self._path(key)) as file:
                start, end, _ = wanted_part(wanted).indices(os.fstat(file.fileno()).st_size)
                if end - start > _LARGE:
                    self._check_size(key, end - start)
                if start:
                    file.seek(start)
                return file.read(max(0, end - start))
        except UnsupportedFormatError as error:
            raise CorruptDataError(f"there is no file at the key {key!r}: {error}") from error
        except _ABSENT:
            return None

    def exists(self, key: str) -> bool:
        return self.read(key, RangeByteRequest(0, 0)) is not None

    def write(self, key: str, value: Buffer) -> None:
        """Put a file in the place of a key, in one step."""
        with self._resolver.resolve_for_write(
            self._path(key), make=Location.make_directory
        ) as location:
            with suppress(FileNotFoundError):
                check_no_device(location.status())
            with temporary(location) as new:
                with new.create() as file:
                    file.write(value.as_buffer_like())
                publish_file(new, location, overwrite=True)

    def remove(self, key: str) -> None:
        """Remove what is at a key, if anything is."""
        with suppress(*_ABSENT), self._resolver.resolve_nofollow(self._path(key)) as location:
            remove(location)

    def entries(self, key: str) -> Sequence[tuple[str, bool]]:
        """Return the names in a directory, and whether each is a directory."""
        with (
            suppress(*_ABSENT),
            self._resolver.resolve(self._path(key)) as handle,
            handle.entries() as entries,
        ):
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        return []

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _check_size(self, key: str, size: int) -> None:
        name = key.rpartition("/")[2]
        most = MOST_METADATA if name in METADATA else self._most_in_chunk(key)
        if size > most:
            raise CorruptDataError(
                f"the file at the key {key!r} has {size} bytes, where at most {most:g} can be"
            )

    def _most_in_chunk(self, key: str) -> float:
        """Return how many bytes a chunk, or shard, can have by the metadata of its array."""
        names = key.split("/")
        for depth in range(len(names) - 1, -1, -1):
            for name in ("zarr.json", ".zarray"):
                metadata = self.read("/".join((*names[:depth], name)))
                if metadata is not None:
                    return _most(described(metadata))
        return math.inf


class TreeStore(ListedStore):
    """Keys of zarr as files at and below a path.

    Unlike zarr's own `LocalStore`, it opens files alone, never a pipe or a device, and below a
    root it follows no link that leads out.

    - `root`: the root of the tree; without it, the prefix is a path of the system
    - `prefix`: the path in the tree under which the keys lie
    - `read_only`: whether writing is refused
    - `files`: what reads and writes, if it is there already
    """

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
        resolver: PathResolver = SystemResolver() if root is None else RootedResolver(root)
        self._files = files or KeyFiles(resolver, prefix)

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
        return await asyncio.to_thread(
            self.get_sync, key, prototype=prototype, byte_range=byte_range
        )

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        return buffer_of(self._files.read(key, byte_range), prototype)

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._files.exists, key)

    async def set(self, key: str, value: Buffer) -> None:
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check_writable()
        self._files.write(key, value)

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self.delete_sync, key)

    def delete_sync(self, key: str) -> None:
        self._check_writable()
        self._files.remove(key)

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        if prefix.strip("/"):
            await asyncio.to_thread(self._files.remove, prefix.rstrip("/"))
        else:
            await super().delete_dir(prefix)

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


def files_in(directory: Handle, *, rooted: bool) -> KeyFiles:
    """Return the files of a directory that the caller keeps open.

    If there is a root, no link of the directory leads out of it.
    """
    if rooted:
        return KeyFiles(RootedResolver(directory), "/")
    return KeyFiles(SystemResolver(), directory.path)


def held_store(directory: Handle, *, rooted: bool, read_only: bool) -> TreeStore:
    """Return a store of a directory that it holds open as long as it is used.

    A move of the directory does not matter to it. It makes no directory anew that was deleted,
    and what zarr still writes after an error is never written elsewhere.
    """
    handle = directory.duplicate()
    root, prefix = (handle.path, "/") if rooted else (None, handle.path)
    files = files_in(handle, rooted=rooted)
    weakref.finalize(files, handle.close)
    return TreeStore(root, prefix, read_only=read_only, files=files)


def _most(array: dict[str, object]) -> float:
    try:
        if "chunks" in array:  # of format 2
            shape, name = array["chunks"], array["dtype"]
        else:
            grid: dict[str, dict[str, object]] = array["chunk_grid"]  # type: ignore[assignment]
            shape, name = grid["configuration"]["chunk_shape"], array["data_type"]
        dtype = np.dtype(name)  # type: ignore[call-overload]
        items = math.prod(map(int, shape))  # type: ignore[call-overload]
    except (KeyError, TypeError, ValueError):
        return math.inf  # of items that may have any length
    return (
        math.inf if dtype.hasobject else max(items, 1) * (2 * dtype.itemsize + _PER_ITEM) + _LARGE
    )
