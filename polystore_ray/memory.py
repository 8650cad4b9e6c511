"""The backend that clients see for ``memory``: one memory filesystem for all of a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from polystore.base import StorageBackend, check_batch, check_collection
from polystore.exceptions import VersionConflictError
from polystore.paths import P, as_text
from polystore.progress import Progress, reporting
from polystore.region import Region, put_region, take_region
from polystore.seal import seal
from polystore_ray.errors import DataLostError
from polystore_ray.messages import WHOLE, Found, InlineFullError, Items, NotPinnedError
from polystore_ray.transport import Transport
from polystore_ray.values import Sealing, array_bytes, opened

__all__ = ["ClusterMemoryBackend"]

_LOOKED_UP_EVERY = 0.1  # seconds, while an object moves to another volume


class ClusterMemoryBackend(StorageBackend):
    """The cluster memory: one tree rooted at ``/``, the same in every process of the store.

    A save puts the bytes into the object store of the caller's node, has them pinned by that
    node's volume, and publishes them; then it returns, and the caller may end at once. A load on
    a node that has the bytes returns arrays as read-only views of shared memory; on another node
    they are transferred once. Values of up to 64 KiB travel inside the call, and those of a batch
    share objects. What a reader has loaded stays as it is when the path is overwritten or deleted.

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

        Parameters
        ----------
        path : str or os.PathLike
            A file.
        region : int, slice, ... or tuple of them, optional
            The part of the array to return, as in basic indexing.

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
        texts = _texts(paths)
        transport = self._connect()
        with transport.measured("memory", "load"):
            values, _ = self._load(transport, texts)
        transport.moved("memory", "load", array_bytes(values))
        if region is not None:
            values = [
                take_region(value, region, path=text, backend="memory")
                for value, text in zip(values, texts, strict=True)
            ]
        with reporting(progress, len(texts), "loading") as step:
            step(len(texts))
        return values

    def _load(self, transport: Transport, paths: list[str]) -> tuple[list[Any], list[int]]:
        """Return values and their versions; looked up again while objects change their places."""
        path = paths[0] if paths else None
        deadline = time.monotonic() + transport.timeout
        while True:
            found: Found = transport.ask("read", paths, path=path)
            try:
                objects = transport.get(found.pins, path)
                values = opened(found, objects, lambda pin: transport.get([pin], path)[0])
            except NotPinnedError as error:
                if time.monotonic() > deadline:
                    raise _not_found_again(error, path) from error
                time.sleep(_LOOKED_UP_EVERY)
            else:
                return values, found.versions

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
        if_version : int, optional
            Replace the value only if this is still its version, which `stat` tells.
        region : int, slice, ... or tuple of them, optional
            Write into this part of the stored array. The whole array is replaced by a changed
            copy, so that readers keep what they loaded; saves of other regions are not lost.

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
        StorageFullError
            If the store would hold more than its `max_bytes`; before any byte has moved, unless
            another save took the room meanwhile.
        StorageWriteError
            If the node has no room for the value.
        """
        text = as_text(path, backend="memory")
        if region is not None:
            self._save_region(data, text, region)
            return
        items = Items([text], [], [], overwrite, parents, if_version)
        self._publish(Sealing([data], [text]), items)

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
        with reporting(progress, len(texts), "saving") as step:
            sealing = Sealing(values, texts, step if progress else None)
        self._publish(sealing, Items(texts, [], [], overwrite, parents))

    def _publish(self, sealing: Sealing, items: Items) -> None:
        transport = self._connect()
        items = items._replace(facts=sealing.facts)
        with transport.measured("memory", "save"):
            if transport.options.max_bytes is not None and sealing.has_objects:
                transport.ask("check", items, path=items.paths[0])
            try:
                transport.publish(*sealing.put(transport.put, items))
            except InlineFullError:
                transport.publish(*sealing.put(transport.put, items, inline=False))
        transport.moved("memory", "save", sum(size for size, _, _ in sealing.facts))

    def _save_region(self, data: Any, path: str, region: Region) -> None:
        while True:
            [array], [version] = self._load(self._connect(), [path])
            take_region(array, region, path=path, backend="memory")
            changed = array.copy(order="K")
            put_region(changed, region, data, path=path, backend="memory")
            try:
                self.save(changed, path, if_version=version)
            except VersionConflictError:
                continue  # another save came first: apply this one to its result
            return

    # References, and work where the bytes are

    def ref(self, path: P) -> Any:
        """Return an object reference to the value at `path`; see `refs`."""
        return self.refs([path])[0]

    def refs(self, paths: Sequence[P]) -> list[Any]:
        """Return object references to values, for `ray.get`, task arguments and ``ray.data``.

        They stay valid while the store holds the values or somebody holds the references,
        whatever becomes of the processes that saved them. Nothing is transferred; a value whose
        saver owns it still is copied once within its node. For a small value an object is made.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        UnsupportedOperationError
            In local mode, which has no references.
        """
        texts = _texts(paths)
        transport = self._connect()
        deadline = time.monotonic() + transport.timeout
        while True:
            found: Found = transport.ask("read", texts, path=texts[0] if texts else None)
            try:
                return self._references(transport, found)
            except NotPinnedError as error:
                if time.monotonic() > deadline:
                    raise _not_found_again(error, texts[0]) from error
                time.sleep(_LOOKED_UP_EVERY)

    def _references(self, transport: Transport, found: Found) -> list[Any]:
        large = {which for which, number in _objects(found) if number == WHOLE}
        owned = {which: transport.owned(found.pins[which]).ref for which in sorted(large)}
        packs = [i for i in range(len(found.pins)) if i not in owned]
        objects: list[Any] = [None] * len(found.pins)
        for which, pack in zip(packs, transport.get([found.pins[i] for i in packs]), strict=True):
            objects[which] = pack
        values = opened(found, objects, lambda _: None)
        return [
            owned[stored[0]]
            if isinstance(stored, tuple) and stored[1] == WHOLE
            else transport.reference(seal(value))
            for stored, value in zip(found.stored, values, strict=True)
        ]

    def save_ref(
        self, reference: Any, path: P, *, overwrite: bool = False, parents: bool = False
    ) -> None:
        """Store the value of an object reference, as a task returned it.

        Its bytes do not pass through the caller: they are copied once, in the object store of the
        node that has them. Waits for the task that makes the value.

        Parameters
        ----------
        reference : ray.ObjectRef
            The value. One that contains references itself is refused.
        path, overwrite, parents
            As for `save`.

        Raises
        ------
        CallTimeoutError
            If the value is not there by the store's deadline.
        StorageError
            As `save`.
        UnsupportedOperationError
            In local mode, which has no references.
        """
        text = as_text(path, backend="memory")
        connect = self._connect

        def save(value: Any) -> None:
            ClusterMemoryBackend(connect).save(value, text, overwrite=overwrite, parents=parents)

        connect().save_ref(reference, save, text)

    def locations(self, paths: Sequence[P]) -> list[tuple[str, ...]]:
        """Return, for each path, the ids of the nodes that hold its bytes.

        A small value that travels inside calls is held by none. Copies that Ray made for readers
        on other nodes are not counted, since it drops them when it needs the room.
        """
        texts = _texts(paths)
        found: Found = self._connect().ask("read", texts, path=texts[0] if texts else None)
        return [
            () if isinstance(stored, bytes) else found.pins[stored[0]].nodes
            for stored in found.stored
        ]

    def map(self, function: Callable[[Any], Any], paths: Sequence[P], **options: Any) -> list[Any]:
        """Return ``function(value)`` for the values at `paths`, in tasks where the bytes are.

        As many tasks run at a time as keep the cluster busy. A node that is gone, or has not what
        a task needs, is no hindrance: Ray then chooses another.

        Parameters
        ----------
        function : callable
            Called with the value of one path, in a Ray task; in local mode, here.
        paths : sequence of str or os.PathLike
            Files.
        **options
            For the tasks, as of `ray.remote`, such as ``num_cpus=2``.

        Raises
        ------
        Exception
            What the function raises.

        Examples
        --------
        >>> from polystore_ray import RayBackendRegistry
        >>> memory = RayBackendRegistry("mapped", local=True)["memory"]
        >>> memory.save_batch([[1, 2], [3]], ["/a", "/b"])
        >>> memory.map(sum, ["/a", "/b"])
        [3, 3]
        """
        texts = _texts(paths)
        connect = self._connect

        def apply(path: str) -> Any:
            return function(ClusterMemoryBackend(connect).load(path))

        tasks = zip(self.locations(texts), texts, strict=True)
        return list(connect().run(((nodes, apply, (text,)) for nodes, text in tasks), options))

    # The tree

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
        transport = self._connect()
        with transport.measured("memory", operation):
            return transport.ask(operation, text, *arguments, path=text)

    def _change(self, operation: str, path: P, *arguments: Any) -> Any:
        text = as_text(path, backend="memory")
        transport = self._connect()
        with transport.measured("memory", operation):
            return transport.change(operation, text, *arguments, path=text)


def _objects(found: Found) -> Iterable[tuple[int, int]]:
    return (stored for stored in found.stored if isinstance(stored, tuple))


def _not_found_again(error: NotPinnedError, path: str | None) -> DataLostError:
    return DataLostError(f"the saved bytes are not to be had: {error}", path=path, backend="memory")


def _texts(paths: Sequence[P]) -> list[str]:
    check_collection(paths, "paths", backend="memory")
    return [as_text(path, backend="memory") for path in paths]
