"""The backend that clients see for ``memory``: one memory filesystem for all of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from polystore.base import StorageBackend, check_batch
from polystore.exceptions import PathExistsError
from polystore.paths import P, as_text
from polystore.progress import Progress, reporting
from polystore.region import Region, as_index, take_region
from polystore.seal import Sealed, seal, shape_and_dtype
from polystore_ray.envelope import SMALL, pack_sealed, unpack
from polystore_ray.messages import Item, Pin, PutOptions
from polystore_ray.transport import Transport

__all__ = ["ClusterMemoryBackend"]


class ClusterMemoryBackend(StorageBackend):
    """The cluster memory: one tree rooted at ``/``, the same in every process of the store.

    A save puts the bytes into the object store of the caller's node, has them pinned by that
    node's volume, and publishes them; then it returns, and the caller may end at once. A load on
    a node that has the bytes returns arrays as read-only views of shared memory; on another node
    they are transferred once. Values of up to 64 KiB travel inside the call. What a reader has
    loaded stays as it is when the path is overwritten or deleted.

    Obtained as ``RayBackendRegistry()["memory"]``.

    Examples
    --------
    >>> import numpy as np
    >>> from polystore_ray import RayBackendRegistry
    >>> memory = RayBackendRegistry(local=True)["memory"]
    >>> memory.save(np.ones((2, 2)), "/plate1/A01", parents=True)
    >>> image = memory.load("/plate1/A01")
    >>> image.flags.writeable
    False
    """

    def __init__(self, connect: Callable[[], Transport]) -> None:
        self._connect = connect

    def load(self, path: P, *, region: Region | None = None) -> Any:
        """Return the value at `path`, or the part of an array that `region` selects.

        Returns
        -------
        object
            An array as a read-only view of shared memory, anything else fresh.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathIsDirectoryError
            If it is a directory.
        DataLostError
            If the bytes were lost with the node that held them.
        StoreUnavailableError, CallTimeoutError
            If the store does not answer; never reported as "not found".
        """
        return self.load_batch([path], region=region)[0]

    def load_batch(
        self, paths: Sequence[P], *, region: Region | None = None, progress: Progress = None
    ) -> list[Any]:
        """Return the values at `paths`, in their order, all of one moment, in one call."""
        texts = [as_text(path, backend="memory") for path in paths]
        stored = [
            found
            for found, _ in self._connect().ask("read", texts, path=texts[0] if texts else None)
        ]
        large = [i for i, found in enumerate(stored) if isinstance(found, Pin)]
        values = dict(
            zip(
                large,
                self._connect().get([stored[i] for i in large], [texts[i] for i in large]),
                strict=True,
            )
        )
        loaded: list[Any] = []
        with reporting(progress, len(texts), "loading") as step:
            for i, found in enumerate(stored):
                value = values[i] if isinstance(found, Pin) else unpack(found)
                loaded.append(take_region(value, region, path=texts[i], backend="memory"))
                step()
        return loaded

    def save(
        self,
        data: Any,
        path: P,
        *,
        overwrite: bool = False,
        parents: bool = False,
        region: Region | None = None,
    ) -> None:
        """Store a snapshot of `data` at `path`, visible to every process of the store.

        Parameters
        ----------
        data : object
            Any value that pickles.
        path : str or os.PathLike
            Where.
        overwrite : bool, default False
            Whether an existing file may be replaced.
        parents : bool, default False
            Whether to make missing directories.
        region : int, slice, ... or tuple of them, optional
            Write into this part of the stored array. The whole array is replaced by a changed
            copy, so that readers keep what they loaded; saves of other regions are not lost.

        Raises
        ------
        PathExistsError
            If the path exists, unless `overwrite` or `region` is given.
        PathNotFoundError
            If the parent is missing, unless `parents` is given.
        PathTypeError
            If a parent is a file, or the path a directory.
        VFSTypeError
            If the value does not pickle, or contains an object of Ray.
        StorageWriteError
            If the node has no room for the value.
        """
        if region is None:
            self.save_batch([data], [path], overwrite=overwrite, parents=parents)
        else:
            self._save_region(data, as_text(path, backend="memory"), region)

    def save_batch(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        *,
        overwrite: bool = False,
        parents: bool = False,
        progress: Progress = None,
    ) -> None:
        """Store `values` at `paths`, visible all at once or not at all."""
        texts = check_batch(values, paths, backend="memory")
        sealed = [seal(value) for value in values]
        items: list[Item] = []
        with reporting(progress, len(texts), "saving") as step:
            for text, value, snapshot in zip(texts, values, sealed, strict=True):
                items.append(self._item(text, value, snapshot))
                step()
        self._publish(items, PutOptions(overwrite=overwrite, parents=parents))

    def _item(self, path: str, value: Any, sealed: Sealed) -> Item:
        shape, dtype = shape_and_dtype(value)
        size = sealed.nbytes
        stored = pack_sealed(sealed) if size <= SMALL else self._connect().put(sealed)
        return Item(path, size, shape, dtype, stored)

    def _publish(self, items: list[Item], options: PutOptions) -> None:
        if any(isinstance(item.stored, Pin) for item in items):
            self._connect().publish(items, options)
        else:
            path = items[0].path if items else None
            self._connect().change("publish", items, options, path=path)

    def _save_region(self, data: Any, path: str, region: Region) -> None:
        while True:
            [(stored, version)] = self._connect().ask("read", [path], path=path)
            if isinstance(stored, Pin):
                [array] = self._connect().get([stored], [path])
            else:
                array = unpack(stored)
            take_region(array, region, path=path, backend="memory")
            changed = array.copy(order="K")
            changed[as_index(region)] = data
            item = self._item(path, changed, seal(changed))
            try:
                self._publish([item], PutOptions(overwrite=True, version=version))
            except PathExistsError:
                continue  # another save came first: apply this one to its result
            return

    def exists(self, path: P) -> bool:
        return bool(self._ask("exists", path))

    def is_file(self, path: P) -> bool:
        return bool(self._ask("is_file", path))

    def is_dir(self, path: P) -> bool:
        return bool(self._ask("is_dir", path))

    def is_symlink(self, path: P) -> bool:
        return bool(self._ask("is_symlink", path))

    def stat(self, path: P) -> dict[str, Any]:
        facts: dict[str, Any] = self._ask("stat", path)
        return facts

    def list_dir(self, path: P) -> list[str]:
        names: list[str] = self._ask("list_dir", path)
        return names

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        endings = extensions if extensions is None or isinstance(extensions, str) else [*extensions]
        files: list[str] = self._ask("list_files", path, pattern, endings, recursive)
        return files

    def ensure_directory(self, path: P) -> str:
        return str(self._change("ensure_directory", path))

    def delete(self, path: P) -> None:
        self._change("delete", path)

    def delete_all(self, path: P) -> None:
        self._change("delete_all", path)

    def copy(self, source: P, destination: P) -> None:
        self._change("copy", source, as_text(destination, backend="memory"))

    def move(self, source: P, destination: P) -> None:
        self._change("move", source, as_text(destination, backend="memory"))

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        self._change("create_symlink", source, as_text(link, backend="memory"), overwrite)

    def _ask(self, operation: str, path: P, *arguments: Any) -> Any:
        text = as_text(path, backend="memory")
        return self._connect().ask(operation, text, *arguments, path=text)

    def _change(self, operation: str, path: P, *arguments: Any) -> Any:
        text = as_text(path, backend="memory")
        return self._connect().change(operation, text, *arguments, path=text)
