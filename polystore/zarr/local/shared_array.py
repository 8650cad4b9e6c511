"""An array in a directory that several writers change, and the lock files of its writers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from zarr.abc.store import Store

from polystore.filesystem.descent import files_below
from polystore.filesystem.dir_fd import Handle
from polystore.filesystem.locks import Deadline, hold_lock_file
from polystore.filesystem.temporaries import PREFIX, keep_mode, publish_file, temporary
from polystore.zarr.array.locks import Locks
from polystore.zarr.array.pipelines import Pipeline
from polystore.zarr.array.reading import is_chunk
from polystore.zarr.array.updating import Shared
from polystore.zarr.local.rooted_store import KeyFiles

__all__ = ["LocalLocks", "SharedDirectory"]


class SharedDirectory(Shared):
    """An array in a directory that the caller keeps open; `forget` precedes a change of shape."""

    def __init__(
        self,
        directory: Handle,
        files: KeyFiles,
        store: Store,
        forget: Callable[[], None],
        pipeline: Pipeline,
    ) -> None:
        self._directory, self._files, self._forget = directory, files, forget
        self.store = store
        self.pipeline = pipeline
        self.locks = LocalLocks(directory)

    def metadata(self) -> tuple[str, bytes]:
        for name in ("zarr.json", ".zarray"):
            metadata = self._files.read(name)
            if metadata is not None:
                return name, metadata
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def publish(self, metadata: bytes, *, shows_less: bool = False) -> None:
        self._forget()
        location = self._directory.location(self.metadata()[0])
        with temporary(location) as new:
            new.write(metadata)
            keep_mode(location, new)
            new.sync()
            publish_file(new, location, overwrite=True)

    def chunks(self) -> Iterable[str]:
        return (key for key, _ in files_below(self._directory) if is_chunk(key))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._files.remove(key)


class LocalLocks(Locks):
    """Locks of the operating system on files in the array's directory, which copies leave out.

    They are those of the file system itself, so that they hold among threads, processes, and
    nodes that share it; the system frees them when the process that holds them dies.
    """

    def __init__(self, directory: Handle) -> None:
        self._directory = directory

    def shape(self) -> ExitStack:
        return self._lock(["shape"])

    def shards(self, numbers: Iterable[int]) -> ExitStack:
        # In one order everywhere, so that no two wait for each other.
        return self._lock([f"{number:02}" for number in sorted(numbers)])

    def _lock(self, names: list[str]) -> ExitStack:
        deadline = Deadline()
        with ExitStack() as stack:
            for name in names:
                location = self._directory.location(f"{PREFIX}~lock~{name}")
                stack.callback(os.close, hold_lock_file(location, deadline))
            return stack.pop_all()
