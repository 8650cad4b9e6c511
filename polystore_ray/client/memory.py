"""The backend that clients see for ``memory``: one memory filesystem for all of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from polystore.arguments import whole_number
from polystore.base import StorageBackend
from polystore.capabilities import accepting
from polystore.forwarding import forwarded
from polystore.paths import NameFilter, P, PathT, as_given, as_text
from polystore.progress import Progress
from polystore.region import Region, take_region
from polystore.stat import Stat
from polystore.traversal import walk_tree
from polystore.writable import private
from polystore_ray.client import claims, eviction, keys, locality, sending, waiting
from polystore_ray.client.batch import Sealing, array_bytes, opened, publish
from polystore_ray.client.lookup import Read, look_up, texts_of
from polystore_ray.client.recipes import UserRecipe, recipes_of
from polystore_ray.client.refills import load_refilled, portable_fallback
from polystore_ray.client.region_saves import save_region
from polystore_ray.transport.base import Transport
from polystore_ray.transport.leased_reads import NOT_KEPT, LeasedReads
from polystore_ray.wire.messages import Found, Items, Pin

__all__ = ["ClusterMemoryBackend"]


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

    def __init__(
        self,
        connect: Callable[[], Transport],
        registry: Mapping[str, Any],
        read: Read | None = None,
    ) -> None:
        self._backend_type = "memory"  # type: ignore[misc] # the class registers no key
        self._connect = connect
        self._registry = registry
        self._read = read  # in place of opening any value
        self._reads: LeasedReads | None = None  # of the store, once it is connected

    def __reduce__(self) -> tuple[Any, ...]:
        # What is kept stays in its process.
        return type(self), (self._connect, self._registry, self._read)

    def load(
        self,
        path: P,
        *,
        region: Region | None = None,
        writable: bool = False,
        wait: float | None = None,
    ) -> Any:
        """Return the value at `path`, or the part of an array that `region` selects.

        Parameters
        ----------
        path : str or os.PathLike
            A file.
        region : int, slice, ... or tuple of them, optional
            The part of the array to return, as in basic indexing.
        writable : bool, default False
            Whether to return a private copy that can be changed in place, instead of a view.
        wait : float, optional
            Seconds to wait for the path to exist, if it does not.

        Returns
        -------
        object
            An array, also one in dicts, lists and tuples, as a read-only view of shared memory;
            anything else fresh, so that it can be changed in place. With `writable`, arrays too.

        Raises
        ------
        PathNotFoundError
            If nothing is there, also after `wait`.
        PathIsDirectoryError
            If it is a directory.
        DataLostError
            If the bytes were lost with the node that held them; `DataEvictedError` if the value
            was evicted; `RecipeError` if it could not be made again.
        MissingDependencyError
            If the class of the value is missing in this process.
        CorruptDataError
            If the code of its class fails to open it.
        StoreUnavailableError, CallTimeoutError
            If the store does not answer; never reported as "not found".
        """
        load = partial(self._load_all, [path], region=region, writable=writable)
        return (load() if wait is None else waiting.load_when_there(self, load, path, wait))[0]

    def _load_all(
        self,
        paths: Sequence[P],
        transport: Transport | None = None,
        *,
        region: Region | None = None,
        writable: bool = False,
    ) -> list[Any]:
        texts = texts_of(paths)
        values = self._kept_here(texts)
        if values is None:
            transport = transport or self._transport()
            with transport.measured("memory", "load"):
                values, _ = self._load(transport, texts)
            transport.moved("memory", "load", array_bytes(values))
        if region is not None:
            found = zip(values, texts, strict=True)
            values = [take_region(value, region, path=p, backend="memory") for value, p in found]
        return [private(value) for value in values] if writable else values

    def _kept_here(self, paths: list[str]) -> list[Any] | None:
        """Return small values that this process keeps, None if there is anything to ask."""
        if self._reads is None or self._read is not None:
            return None
        found = self._reads.inline(paths)
        return None if found is None else opened(found, paths, (), _no_object)

    def _transport(self) -> Transport:
        transport = self._connect()
        self._reads = transport.reads
        return transport

    def load_each(self, paths: Sequence[P]) -> Iterator[Any]:
        """Yield the values at `paths`, loaded in one call: they are views of shared memory."""
        yield from self.load_batch(paths)

    def _load(
        self, transport: Transport, paths: list[str], *, existing: bool = False
    ) -> tuple[list[Any], list[int]]:
        """Return values and their versions, taking from their fallbacks what was lost."""
        if self._read is not None:
            return self._read(transport, paths, existing)

        def load(paths: list[str]) -> tuple[list[Any], list[int]]:
            def taken(found: Found) -> tuple[list[Any], list[int]]:
                objects = transport.get(found.pins, paths[0] if paths else None)
                values = opened(found, paths, objects, lambda pin: transport.get([pin])[0])
                return values, found.versions

            return look_up(transport, paths, taken, existing=existing)

        return load_refilled(self, transport, paths, load)

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
        ttl: float | None = None,
        evictable: bool = False,
        recipe: UserRecipe | None = None,
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
            Replace the value only if this is still its version, which `stat` returns.
        region : int, slice, ... or tuple of them, optional
            Write into this part of the stored array. A changed copy replaces the whole array, so
            that readers keep what they loaded; saves of other regions are not lost. The array keeps
            its `replicas` and its `fallback`, unless you give others; the fallback does not get the
            change until `persist` saves it again. It is not `evictable` any more, and has no
            `recipe`, unless you give them again.
        replicas : int, optional
            On how many nodes the value is held before this returns; by default as for the store.
        fallback : tuple of str and path, optional
            A backend and a path in it with the same value. If the memory loses the value, the next
            load restores it from there.
        ttl : float, optional
            Seconds until it is deleted, also where it was moved or copied to; at most one too late.
        evictable : bool, default False
            Whether the value may leave the memory where the store was made with ``eviction="lru"``
            and another value needs the room. A load then brings it back from its `fallback` or by
            its `recipe`, and raises `DataEvictedError` if it has none. `pin` keeps it.
        recipe : tuple of callable and tuple, optional
            A function and its arguments that make the value again, in a task, if it is lost or
            evicted: once, however many ask. ``Input(path)`` as an argument stands for another value
            of the memory, whose own recipe runs first where it is needed.

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
            If the store would hold more than its `max_bytes`, or the node has no room.
        TooFewNodesError
            If the cluster has fewer nodes, unless the store was made with ``too_few_nodes="warn"``.
        CallTimeoutError
            If no answer arrives in time, or others write into the same array all the time.
        """
        text = as_text(path, backend="memory")
        if if_version is not None:
            if_version = whole_number(if_version, "if_version", 0, backend="memory")
        items = Items([text], [], [], bool(overwrite), bool(parents), if_version, ttl=ttl)
        items = items._replace(evictable=bool(evictable), recipes=recipes_of([recipe], [text]))
        items = items._replace(fallback=portable_fallback(self, fallback))
        if region is not None:
            save_region(self, data, region, items, replicas)
        else:
            publish(self._connect(), Sealing([data], [text]), items, replicas)

    @accepting("progress")
    def save_batch(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        *,
        progress: Progress = None,
        **options: Any,
    ) -> None:
        """Store `values` at `paths`, visible all at once or not at all.

        Parameters
        ----------
        values : sequence of object
            One value for each path.
        paths : sequence of str or os.PathLike
            The paths of the new values.
        progress : callable or bool, optional
            Called with the number of values prepared so far and the number of all; `True` shows a
            bar.
        **options
            `overwrite`, `parents`, `replicas`, `ttl` and `evictable` as for `save`, and `recipes`,
            one for each path or None. And `bundled`, by default 0: arrays of more than 64 KiB and
            up to this size in bytes share objects. Many such arrays are saved and loaded faster;
            another node then fetches them together, and `ref` makes copies of them.

        Raises
        ------
        StorageError
            Same as for `save`, before anything is stored.
        """
        super().save_batch(values, paths, progress=progress, **options)

    def _save_all(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        step: Callable[..., None],
        *,
        overwrite: bool = False,
        parents: bool = False,
        replicas: int | None = None,
        bundled: int = 0,
        ttl: float | None = None,
        evictable: bool = False,
        recipes: Sequence[UserRecipe | None] = (),
    ) -> None:
        texts = [as_text(path, backend="memory") for path in paths]
        bundled = whole_number(bundled, "bundled", 0, backend="memory")
        sealing = Sealing(values, texts, step, bundled)
        items = Items(texts, [], [], bool(overwrite), bool(parents), ttl=ttl)
        items = items._replace(evictable=bool(evictable), recipes=recipes_of(recipes, texts))
        publish(self._connect(), sealing, items, replicas)

    # Beyond the contract: wait for others

    wait, async_wait = waiting.wait, waiting.async_wait
    watch, awatch = waiting.watch, waiting.awatch
    claim = claims.claim

    # Beyond the contract: what a full store keeps

    pin, unpin = eviction.pin, eviction.unpin

    # Beyond the contract: work where the bytes are

    ref, refs = locality.ref, locality.refs
    save_ref, locations = locality.save_ref, locality.locations
    map, run_tasks = locality.map_values, locality.run_tasks
    persist, why, lost = locality.persist, locality.why, locality.lost
    load_existing, delete_keys = keys.load_existing, keys.delete_keys
    load_versions, save_versions = keys.load_versions, keys.save_versions

    # Copies of many values: made where the values are, or where they go

    send, send_rows = sending.send, sending.send_rows

    # The tree

    def walk(self, path: P, /, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        top = as_text(path, backend="memory")
        return walk_tree(self, top, recursive, set(self.list_files(top, recursive=recursive)))

    exists = forwarded(StorageBackend.exists)
    is_file = forwarded(StorageBackend.is_file)
    is_dir = forwarded(StorageBackend.is_dir)
    is_symlink = forwarded(StorageBackend.is_symlink)
    list_dir = forwarded(StorageBackend.list_dir)

    def stat(self, path: P) -> Stat:
        stat: Stat = self._ask_of_file("stat", path)
        return stat.copy()

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

    def ensure_directory(self, path: PathT) -> PathT:
        return as_given(path, self._change("ensure_directory", path))

    def delete(self, path: P) -> None:
        self._change("delete", path)

    def delete_all(self, path: P) -> None:
        self._change("delete_all", path)

    def copy(self, source: P, destination: P) -> None:
        self._change("copy", source, as_text(destination, backend="memory"))

    def move(self, source: P, destination: P) -> None:
        self._change("move", source, as_text(destination, backend="memory"))

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        self._change("create_symlink", source, as_text(link, backend="memory"), bool(overwrite))

    def _forward(self, operation: str, path: P) -> Any:
        ask = self._ask_of_file if operation in ("exists", "is_file") else self._ask
        return ask(operation, path)

    def _ask_of_file(self, operation: str, path: P) -> Any:
        """Return the answer to a question that may be kept where it is about a file."""
        text = as_text(path, backend="memory")
        answer = NOT_KEPT if self._reads is None else self._reads.answer(operation, text)
        if answer is not NOT_KEPT:
            return answer
        transport = self._transport()
        with transport.measured("memory", operation):
            return transport.reads.ask(transport, operation, text)

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


def _no_object(pin: Pin) -> NoReturn:
    raise AssertionError(f"{pin} is not inline")
