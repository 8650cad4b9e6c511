"""The memory backend: snapshots of values in this process."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn

from polystore.base import StorageBackend
from polystore.error_translation import located
from polystore.exceptions import UnsupportedOperationError
from polystore.forks import held_over_forks
from polystore.forwarding import forwarded
from polystore.path_tree import PathTree
from polystore.paths import P, PathT, as_given
from polystore.region import Region, put_region, take_region
from polystore.serialization import Sealed, seal, shape_and_dtype
from polystore.stat import Details
from polystore.writable import private

__all__ = ["MemoryBackend"]

Loads = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    sealed: Sealed
    modified: float
    version: int
    shape: tuple[int, ...] | None
    dtype: str | None

    def describe(self) -> Details:
        details: Details = {
            "size": self.sealed.nbytes,
            "modified": self.modified,
            "version": self.version,
        }
        if self.shape is not None and self.dtype is not None:
            details |= {"shape": self.shape, "dtype": self.dtype}
        return details


class MemoryBackend(StorageBackend):
    """Keep snapshots of any values that pickle, in one tree rooted at ``/``.

    Loaded arrays are read-only views of the stored bytes, without a copy. Every other value is
    new for each caller, so that no two callers share a mutable object. Batches and moves of trees
    are atomic, and the values of a batch are loaded as they are at one moment. All methods may be
    called from several threads.

    Examples
    --------
    >>> import numpy as np
    >>> memory = MemoryBackend()
    >>> image = np.zeros((2, 3))
    >>> memory.save(image, "/plate1/A01", parents=True)
    >>> image[:] = 1
    >>> memory.load("/plate1/A01").sum()
    np.float64(0.0)
    """

    _backend_type = "memory"

    def __init__(self) -> None:
        self._tree: PathTree[_Snapshot] = PathTree("memory")
        self._lock = held_over_forks(threading.RLock())
        self._versions = count(1)
        self._loads: Loads = pickle.loads

    def opened_by(self, loads: Loads) -> MemoryBackend:
        """Return the same memory whose values are opened by another function than `pickle.loads`.

        - `loads`: takes a pickle and the argument ``buffers``
        """
        same = MemoryBackend()
        same._tree, same._lock, same._versions = self._tree, self._lock, self._versions
        same._loads = loads
        return same

    def __reduce__(self) -> NoReturn:
        raise UnsupportedOperationError(
            "a MemoryBackend belongs to its process; a copy would not share its values. Use "
            "polystore_ray.RayBackendRegistry to share values between processes",
            backend="memory",
        )

    def load(self, path: P, *, region: Region | None = None, writable: bool = False) -> Any:
        """Return the value at `path`, or the part of an array that `region` selects.

        Parameters
        ----------
        path : str or os.PathLike
            A file.
        region : int, slice, ... or tuple of them, optional
            The part of the array to return, as in basic indexing.
        writable : bool, default False
            Whether to return a private copy that can be changed in place, instead of a view.

        Returns
        -------
        object
            An array, also one in dicts, lists and tuples, as a read-only view; with `writable`, as
            a private copy. Any other value is new and can be changed in place.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathIsDirectoryError
            If it is a directory.
        UnsupportedOperationError
            If `region` is given and the value is not an array.
        """
        with self._lock:
            snapshot = self._tree.get(path)
        value = self._opened(snapshot, path, region)
        return private(value) if writable else value

    def _opened(self, snapshot: _Snapshot, path: P, region: Region | None) -> Any:
        value = snapshot.sealed.open(self._loads)
        return take_region(value, region, path=path, backend="memory")

    def _load_all(
        self, paths: Sequence[P], *, region: Region | None = None, writable: bool = False
    ) -> Iterator[Any]:
        with self._lock:  # so that all values are of one moment
            snapshots = [self._tree.get(path) for path in paths]
        for path, snapshot in zip(paths, snapshots, strict=True):
            value = self._opened(snapshot, path, region)
            yield private(value) if writable else value

    def save(
        self,
        data: Any,
        path: P,
        *,
        overwrite: bool = False,
        parents: bool = False,
        if_version: int | None = None,
        region: Region | None = None,
    ) -> None:
        """Store a snapshot of `data` at `path`.

        Parameters
        ----------
        data : object
            Any value that pickles.
        path : str or os.PathLike
            The path of the new value.
        overwrite : bool, default False
            Whether an existing file may be replaced.
        parents : bool, default False
            Whether to create missing directories.
        if_version : int, optional
            Replace the value only if this is still its version, as `stat` returned it.
        region : int, slice, ... or tuple of them, optional
            Write into this part of the stored array, instead of replacing the array. Readers keep
            the array that they have loaded.

        Raises
        ------
        PathExistsError
            If the path exists, unless `overwrite`, `if_version` or `region` is given.
        VersionConflictError
            If the value has another version than `if_version`.
        PathNotFoundError
            If the parent is missing, unless `parents` is given.
        PathTypeError
            If a parent is a file, or the path a directory.
        VFSTypeError
            If the value does not pickle, or contains an object of Ray.
        """
        if region is not None:
            self._save_region(data, path, region)
            return
        options: dict[str, Any] = {
            "overwrite": overwrite,
            "parents": parents,
            "if_version": if_version,
        }
        with self._lock:
            self._tree.check_put([path], **options)
        snapshot = self._snapshot(data, path)
        with self._lock:
            self._tree.put([(path, snapshot)], **options)

    def _save_all(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        step: Callable[..., None],
        *,
        overwrite: bool = False,
        parents: bool = False,
    ) -> None:
        with self._lock:
            self._tree.check_put(paths, overwrite=overwrite, parents=parents)
        items: list[tuple[P, _Snapshot]] = []
        for value, path in zip(values, paths, strict=True):
            items.append((path, self._snapshot(value, path)))
            step()
        with self._lock:
            self._tree.put(items, overwrite=overwrite, parents=parents)

    def _snapshot(self, value: Any, path: P) -> _Snapshot:
        shape, dtype = shape_and_dtype(value)
        with located(path, "memory"):
            sealed = seal(value).copied()
        return _Snapshot(sealed, time.time(), next(self._versions), shape, dtype)

    def _save_region(self, data: Any, path: P, region: Region) -> None:
        with self._lock:
            array = self.load(path)
            take_region(array, region, path=path, backend="memory")
            changed = array.copy(order="K")
            put_region(changed, region, data, path=path, backend="memory")
            self._tree.put([(path, self._snapshot(changed, path))], overwrite=True)

    def _forward(self, operation: str, *args: Any, **options: Any) -> Any:
        with self._lock:
            return getattr(self._tree, operation)(*args, **options)

    exists = forwarded(StorageBackend.exists)
    is_file = forwarded(StorageBackend.is_file)
    is_dir = forwarded(StorageBackend.is_dir)
    is_symlink = forwarded(StorageBackend.is_symlink)
    stat = forwarded(StorageBackend.stat)
    list_dir = forwarded(StorageBackend.list_dir)
    list_files = forwarded(StorageBackend.list_files)
    move = forwarded(StorageBackend.move)

    def ensure_directory(self, path: PathT) -> PathT:
        return as_given(path, self._forward("ensure_directory", path))

    # The tree returns the entries that it drops, or has twice.

    def delete(self, path: P) -> None:
        self._forward("delete", path)

    def delete_all(self, path: P) -> None:
        self._forward("delete_all", path)

    def copy(self, source: P, destination: P) -> None:
        self._forward("copy", source, destination)

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        self._forward("create_symlink", source, link, overwrite=overwrite)

    def clear_files_only(self) -> None:
        """Delete every file and link, and keep the directories."""
        with self._lock:
            self._tree.clear_files()

    def close(self) -> None:
        """Forget everything stored."""
        with self._lock:
            self._tree = PathTree("memory")


MemoryStorageBackend = MemoryBackend  # its name in polystore 0.x, as others in polystore.compat
