"""Values of the cluster memory that are bytes, below one directory: what a zarr store keeps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from polystore.exceptions import (
    PathNotFoundError,
    PathTypeError,
    StorageError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VersionConflictError,
)
from polystore_ray.client.lookup import look_up
from polystore_ray.interop.plain_memory import plain_loads, plain_memory
from polystore_ray.interop.zarr_buffers import Bytes
from polystore_ray.registry import RayBackendRegistry
from polystore_ray.transport.leased_reads import NOT_KEPT, LeasedReads
from polystore_ray.wire.envelope import open_message
from polystore_ray.wire.messages import NOTHING

__all__ = ["StoredBytes", "Write"]

_SHARED_BYTES = 8 * 2**20  # the largest value of several that shares an object with others
_NOTHING_THERE = (PathNotFoundError, PathTypeError)


class Write(NamedTuple):
    """Where a value is to be saved, and whether it leaves one that is there."""

    path: str
    only_new: bool = False


class StoredBytes:
    """The bytes below a directory. A value that is not bytes is refused, and never unpickled.

    A missing value is None, and its version 0.
    """

    def __init__(self, top: str, registry: RayBackendRegistry) -> None:
        self._top = top
        self._registry = registry
        self._prefix = top.rstrip("/")
        self._reads: LeasedReads | None = None  # of the store, once values are read

    @property
    def _memory(self) -> Any:
        return self._registry["memory"]

    def path(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self._prefix}/{key.strip('/')}".rstrip("/") or "/"

    def load(self, paths: Sequence[str], _: Sequence[None] = ()) -> Sequence[Bytes | None]:
        """Return the values at some paths."""
        return self.load_versions(paths)[0]

    def kept(self, path: str) -> Any:
        """Return a small value that this process keeps, or None for one that it knows is missing.

        `NOT_KEPT` if it has to be loaded. It waits for nothing, so it may be called in an event
        loop.
        """
        found = None if self._reads is None else self._reads.inline([path], existing=True)
        stored = NOT_KEPT if found is None else found.stored[0]
        if stored == NOTHING:
            return None
        if isinstance(stored, bytes):
            with suppress(StorageError):  # as load reports
                return _as_bytes(open_message(stored, plain_loads), path)
        return NOT_KEPT

    def load_versions(self, paths: Sequence[str]) -> tuple[Sequence[Bytes | None], Sequence[int]]:
        """Return the values at some paths, and their versions."""
        transport = self._registry._connect()  # noqa: SLF001 - as plain_memory does
        self._reads = transport.reads
        # Over ``ray://`` the proxy opens values anyway.
        memory = plain_memory(self._registry) if transport.opens_here else self._memory
        try:
            values, versions = memory.load_versions(paths)
        except UnsupportedOperationError as error:
            raise _not_bytes(str(error), error.path) from error
        found = [
            None if value is None else _as_bytes(value, path)
            for value, path in zip(values, paths, strict=True)
        ]
        return found, versions

    def save(self, writes: Sequence[Write], values: Sequence[Bytes]) -> Sequence[None]:
        """Save all values in one step, but leave what is there where a write says so."""
        both = list(zip(writes, values, strict=True))
        overwriting = {write.path: value for write, value in both if not write.only_new}
        new = {write.path: value for write, value in both if write.path not in overwriting}
        while True:
            new = self._missing(new)
            wanted = overwriting | new
            versions = [None] * len(overwriting) + [0] * len(new)
            with suppress(VersionConflictError):  # another writer made one of the new values
                if wanted:
                    self.save_versions(list(wanted), list(wanted.values()), versions)
                return [None] * len(writes)

    def _missing(self, new: dict[str, Bytes]) -> dict[str, Bytes]:
        """Return the new values whose paths have none; under a lease that may need no call."""
        if not new:
            return new
        transport = self._registry._connect()  # noqa: SLF001 - as plain_memory does
        with transport.measured("memory", "stat"):
            versions = look_up(transport, list(new), lambda found: found.versions, existing=True)
        return {
            path: value
            for (path, value), version in zip(new.items(), versions, strict=True)
            if not version
        }

    def save_versions(
        self, paths: Sequence[str], values: Sequence[Bytes], versions: Sequence[int | None]
    ) -> None:
        """Save all values, or none if one has another version than is given for it."""
        self._memory.save_versions(values, paths, versions, bundled=_bundled(paths))

    def delete(self, paths: Sequence[str], _: Sequence[None] = ()) -> Sequence[None]:
        """Delete values, and the directories that this leaves empty."""
        self._memory.delete_keys(paths, self._top)
        return [None] * len(paths)

    def delete_below(self, path: str) -> None:
        """Delete a directory in one step; of the root, everything in it."""
        with suppress(*_NOTHING_THERE):
            if path != "/":
                if self._memory.is_dir(path):
                    self._memory.delete_all(path)
                return
            for name in self._memory.list_dir("/"):
                with suppress(PathNotFoundError):
                    self._memory.delete_all(f"/{name}")

    def has(self, path: str) -> bool:
        """Return whether a value is at a path."""
        return bool(self._memory.is_file(path))

    def keys_below(self, directory: str) -> Sequence[str]:
        """Return the keys of all values below a directory."""
        with suppress(*_NOTHING_THERE):
            paths = self._memory.list_files(directory, recursive=True)
            return [path[len(self._prefix) + 1 :] for path in paths]
        return ()

    def names(self, directory: str) -> Sequence[str]:
        """Return the names in a directory."""
        with suppress(*_NOTHING_THERE):
            names: Sequence[str] = self._memory.list_dir(directory)
            return names
        return ()

    def size(self, path: str) -> int:
        """Return the number of bytes at a path; raise `PathNotFoundError` if nothing is there."""
        facts = self._memory.stat(path)
        if facts.get("dtype") == "uint8" and len(facts["shape"]) == 1:
            return int(facts["size"])
        [value] = self.load([path])
        if value is None:
            raise PathNotFoundError("no such key", path=path, backend="memory")
        return len(value)


def _bundled(paths: Sequence[str]) -> int:
    return _SHARED_BYTES if len(paths) > 1 else 0  # alone, a value is an object of its own


def _as_bytes(value: object, path: str) -> Bytes:
    """Return a stored value as the bytes that it is."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return np.frombuffer(value, np.uint8)
    raise _not_bytes(f"the value is a {type(value).__name__}", path)


def _not_bytes(reason: str, path: str | None) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"{reason}, and zarr reads only bytes; load it with the backend, or save it as an array of "
        f"zarr",
        path=path,
        backend="memory",
    )
