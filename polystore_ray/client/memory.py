"""The backend that clients see for ``memory``: one memory filesystem for all of a store."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from polystore.arguments import check_batch, whole_number
from polystore.base import StorageBackend
from polystore.exceptions import (
    PathNotFoundError,
    StorageError,
    VersionConflictError,
    VFSTypeError,
)
from polystore.paths import NameFilter, P, as_text, normalize
from polystore.progress import Progress, reporting
from polystore.region import Region, put_region, take_region
from polystore.registration import backend_key
from polystore.transfer.copying import Pairs
from polystore.transfer.stacking import Rows
from polystore.writable import private
from polystore_ray.client.batch import Sealing, array_bytes, opened
from polystore_ray.client.locality import Nearby
from polystore_ray.client.lookup import look_up, texts_of
from polystore_ray.deadline import Deadline
from polystore_ray.errors import CallTimeoutError, DataLostError
from polystore_ray.transport.base import Transport
from polystore_ray.wire.messages import Found, InlineFullError, Items, Kept, Pin

__all__ = ["ClusterMemoryBackend"]

logger = logging.getLogger(__name__)

_TURNS = tuple(threading.Lock() for _ in range(64))  # of the paths whose regions are saved here
_LONGEST_PAUSE = 1.0  # seconds


class ClusterMemoryBackend(Nearby, StorageBackend):
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

    def __init__(self, connect: Callable[[], Transport], registry: Mapping[str, Any]) -> None:
        self._connect = connect
        self._registry = registry

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
            An array, also one in dicts, lists and tuples, as a read-only view of shared memory;
            anything else fresh, so that it can be changed in place. With `writable`, arrays too.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathIsDirectoryError
            If it is a directory.
        DataLostError
            If the bytes were lost with the node that held them.
        MissingDependencyError
            If the class of the value is missing in this process.
        CorruptDataError
            If the code of its class fails to open it.
        StoreUnavailableError, CallTimeoutError
            If the store does not answer; never reported as "not found".
        """
        return self.load_batch([path], region=region, writable=writable)[0]

    def load_batch(
        self,
        paths: Sequence[P],
        *,
        region: Region | None = None,
        writable: bool = False,
        progress: Progress = None,
    ) -> list[Any]:
        """Return the values at `paths`, in their order, all of one moment, in one call."""
        texts = texts_of(paths)
        transport = self._connect()
        with transport.measured("memory", "load"):
            values, _ = self._load(transport, texts)
        transport.moved("memory", "load", array_bytes(values))
        if region is not None:
            values = [
                take_region(value, region, path=text, backend="memory")
                for value, text in zip(values, texts, strict=True)
            ]
        if writable:
            values = [private(value) for value in values]
        with reporting(progress, len(texts), "loading") as step:
            step(len(texts))
        return values

    def load_existing(self, paths: Sequence[P]) -> list[Any]:
        """Return the values at `paths`, None for a path without a file, in one call.

        Parameters
        ----------
        paths : sequence of str or os.PathLike
            The paths; their values are of one moment.

        Raises
        ------
        DataLostError, CallTimeoutError, StoreUnavailableError
            As `load`; a lost value is never reported as missing.

        Examples
        --------
        >>> from polystore_ray import RayBackendRegistry
        >>> memory = RayBackendRegistry("sparse", local=True)["memory"]
        >>> memory.save("there", "/a.txt")
        >>> memory.load_existing(["/a.txt", "/b.txt"])
        ['there', None]
        """
        transport = self._connect()
        with transport.measured("memory", "load"):
            values, _ = self._load(transport, texts_of(paths), existing=True)
        transport.moved("memory", "load", array_bytes(values))
        return values

    def load_each(self, paths: Sequence[P]) -> Iterator[Any]:
        # All in one call: they are views of shared memory, of which a reader holds no copy.
        yield from self.load_batch(paths)

    def _load(
        self, transport: Transport, paths: list[str], *, existing: bool = False
    ) -> tuple[list[Any], list[int]]:
        """Return values and their versions, taking from their fallbacks what was lost."""

        def taken(found: Found) -> tuple[list[Any], list[int]]:
            objects = transport.get(found.pins, paths[0] if paths else None)
            again = partial(_get_one, transport)
            return opened(found, paths, objects, again), found.versions

        while True:
            try:
                return look_up(transport, paths, taken, existing=existing)
            except DataLostError as error:
                if error.fallback is None or error.path is None or not transport.deadline.left:
                    raise
                self._restore(error, error.path, *error.fallback)

    def _restore(self, error: DataLostError, path: str, key: str, source: str) -> None:
        """Save a lost value anew from its fallback, unless somebody else has done so."""
        try:
            value = self._backend(key).load(source)
        except StorageError as second:
            second.add_note(f"it was to replace a value that was lost: {error}")
            raise error from second
        logger.warning("the lost value %r is restored from %r in %s", path, source, key)
        with suppress(VersionConflictError, PathNotFoundError):
            self.save(
                value,
                path,
                if_version=error.version,
                replicas=error.replicas,
                fallback=(key, source),
            )

    def _backend(self, key: str) -> Any:
        return self._registry[key]

    def save(
        self,
        data: Any,
        path: P,
        *,
        overwrite: bool = False,
        parents: bool = False,
        if_version: int | None = None,
        region: Region | None = None,
        replicas: int | None = None,
        fallback: tuple[str, P] | None = None,
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
            copy, so that readers keep what they loaded; saves of other regions are not lost. The
            array keeps its `replicas` and its `fallback`, unless others are given; the value at
            the fallback stays without the change, until `persist` saves it anew.
        replicas : int, optional
            On how many nodes the value is held before this returns; by default, as the store was
            made.
        fallback : tuple of str and path, optional
            A backend and a path in it where the value can be had too. If the memory loses it, the
            next load takes it from there.

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
            another save took the room meanwhile. Or if the node has no room for the value.
        TooFewNodesError
            If the cluster has not so many nodes, unless the store was made to go on with a warning.
        CallTimeoutError
            If no answer comes in time, or others write into the same array all the time.
        """
        text = as_text(path, backend="memory")
        if region is not None:
            self._save_region(data, text, region, replicas, fallback)
            return
        if if_version is not None:
            if_version = whole_number(if_version, "if_version", 0, backend="memory")
        items = Items([text], [], [], bool(overwrite), bool(parents), if_version)
        items = items._replace(fallback=self._portable(fallback))
        self._publish(self._connect(), Sealing([data], [text]), items, replicas)

    def _portable(self, fallback: tuple[str, P] | None) -> tuple[str, str] | None:
        if fallback is None:
            return None
        key, source = _fallback(fallback)
        return key, self._backend(key).portable(source)

    def save_batch(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        *,
        overwrite: bool = False,
        parents: bool = False,
        replicas: int | None = None,
        bundled: int = 0,
        progress: Progress = None,
    ) -> None:
        """Store `values` at `paths`, visible all at once or not at all.

        Parameters
        ----------
        values, paths, overwrite, parents, replicas
            As of `save`, one value for each path.
        bundled : int, default 0
            Up to how many bytes arrays of the batch share objects, above 64 KiB. It makes saves
            and loads of many such arrays faster, which another node then has to fetch together,
            and of which `ref` makes copies.
        progress : callable or bool, optional
            Called with the numbers of values that are done and of all; `True` shows a bar.

        Raises
        ------
        StorageError
            As of `save`, before anything is stored.
        """
        texts = check_batch(values, paths, backend="memory")
        bundled = whole_number(bundled, "bundled", 0, backend="memory")
        with reporting(progress, len(texts), "saving") as step:
            sealing = Sealing(values, texts, step if progress else None, bundled)
        items = Items(texts, [], [], bool(overwrite), bool(parents))
        self._publish(self._connect(), sealing, items, replicas)

    def _publish(
        self, transport: Transport, sealing: Sealing, items: Items, replicas: int | None
    ) -> None:
        wanted = transport.options.replicas or 1
        if replicas is not None:
            wanted = whole_number(replicas, "replicas", 1, backend="memory")
        items = items._replace(facts=sealing.facts, replicas=wanted)
        with transport.measured("memory", "save"):
            if transport.options.max_bytes is not None and sealing.has_objects:
                transport.ask("check", items, path=items.paths[0])
            # What travels inside the call is held as often as the tree is.
            inline = wanted <= (transport.options.replicas or 1)
            try:
                transport.publish(*sealing.put(transport.put, items, inline=inline))
            except InlineFullError:
                transport.publish(*sealing.put(transport.put, items, inline=False))
        transport.moved("memory", "save", sum(size for size, _, _ in sealing.facts))

    def _save_region(
        self,
        data: Any,
        path: str,
        region: Region,
        replicas: int | None,
        fallback: tuple[str, P] | None,
    ) -> None:
        transport = self._connect()
        given = self._portable(fallback)
        # Writers of this process take turns; one in another process is found by the version.
        with _turn(path, transport.deadline):
            for failed in itertools.count():
                start = time.monotonic()
                kept: Kept = transport.ask("kept", path, path=path)
                [array], [version] = self._load(transport, [path])
                take_region(array, region, path=path, backend="memory")
                changed = array.copy(order="K")
                put_region(changed, region, data, path=path, backend="memory")
                items = Items([path], [], [], if_version=version, fallback=given or kept.fallback)
                wanted = kept.replicas if replicas is None else replicas
                try:
                    self._publish(transport, Sealing([changed], [path]), items, wanted)
                except VersionConflictError:  # another save came first: apply this to its result
                    took = time.monotonic() - start
                    _wait_for_others(path, failed, took, transport.deadline)
                else:
                    return

    # What moves many values: it is done where they go to, or where they are

    def copy_to(
        self,
        other: StorageBackend,
        pairs: Pairs,
        /,
        *,
        progress: Progress = None,
        **options: Any,
    ) -> None:
        other.copy_from(self, pairs, progress=progress, **options)

    def _save_stack_to(
        self, other: StorageBackend, parts: Sequence[Rows], done: Callable[[Rows], None]
    ) -> None:
        found = self.locations([rows.paths[0] for rows in parts])
        tasks = [
            (nodes, self.save_rows_to, (other, rows))
            for nodes, rows in zip(found, parts, strict=True)
        ]
        for rows, _ in zip(parts, self._connect().run(tasks, {}), strict=True):
            done(rows)

    def walk(self, path: P, /, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        return self._walk_beside_files(path, recursive)

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
        wanted = NameFilter(pattern, extensions).plain
        files: list[str] = self._ask("list_files", path, *wanted, bool(recursive))
        return files

    def ensure_directory(self, path: P) -> str:
        return str(self._change("ensure_directory", path))

    def delete(self, path: P) -> None:
        self._change("delete", path)

    def delete_all(self, path: P) -> None:
        self._change("delete_all", path)

    def delete_keys(self, paths: Sequence[P], top: P) -> None:
        """Delete files and the directories below `top` that this leaves empty, in one step.

        Object stores have no directories, and a key that is missing may be deleted; this does the
        same for what keeps its keys in the memory. A directory that is not empty stays.

        Parameters
        ----------
        paths : sequence of str or os.PathLike
            What to delete.
        top : str or os.PathLike
            The directory that stays even if it is empty.

        Examples
        --------
        >>> from polystore_ray import RayBackendRegistry
        >>> memory = RayBackendRegistry("keys", local=True)["memory"]
        >>> memory.save(1, "/top/c/0/0", parents=True)
        >>> memory.delete_keys(["/top/c/0/0", "/top/c/0/1"], "/top")
        >>> memory.list_dir("/top")
        []
        """
        texts = texts_of(paths)
        transport = self._connect()
        with transport.measured("memory", "delete"):
            kept = normalize(top, backend="memory").rstrip("/")
            path = texts[0] if texts else None
            transport.change("delete_keys", texts, kept, path=path)

    def copy(self, source: P, destination: P) -> None:
        self._change("copy", source, as_text(destination, backend="memory"))

    def move(self, source: P, destination: P) -> None:
        self._change("move", source, as_text(destination, backend="memory"))

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        self._change("create_symlink", source, as_text(link, backend="memory"), bool(overwrite))

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


@contextmanager
def _turn(path: str, deadline: Deadline) -> Iterator[None]:
    """Let one thread after another change the value at a path."""
    lock = _TURNS[hash(path) % len(_TURNS)]
    if not lock.acquire(timeout=deadline.left):
        raise _kept_waiting(path)
    try:
        yield
    finally:
        lock.release()


def _wait_for_others(path: str, failed: int, took: float, deadline: Deadline) -> None:
    """Wait after a try that another writer was ahead of: the longer, the more tries have failed.

    By chance, so that one of several is done before the others try again.
    """
    pause = random.uniform(0, min(_LONGEST_PAUSE, took * 2 ** min(failed, 10)))  # noqa: S311 - no secret
    if pause >= deadline.left:
        raise _kept_waiting(path)
    time.sleep(pause)


def _kept_waiting(path: str) -> CallTimeoutError:
    return CallTimeoutError(
        "other writers changed the value until the deadline, and nothing was saved; save larger "
        "regions, or use zarr, which writes a region in place",
        path=path,
        backend="memory",
    )


def _get_one(transport: Transport, pin: Pin) -> Any:
    return transport.get([pin])[0]


def _fallback(given: Any) -> tuple[str, str]:
    """Return a backend's key, and a path in it."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise VFSTypeError(
            f"fallback is a backend's key and a path in it, not {given!r}", backend="memory"
        )
    return backend_key(given[0]), as_text(given[1])
