"""The backend that clients see for every key but ``memory``: it runs in a host on their node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from polystore.base import DataSource, StorageBackend
from polystore.capabilities import MakesParents
from polystore.error_translation import naming_written
from polystore.events import Event, Events, async_events
from polystore.exceptions import VFSTypeError
from polystore.forwarding import forwarded
from polystore.hostable import hostable
from polystore.keywords import check_options
from polystore.paths import P, PathT, as_given, as_text
from polystore.progress import Progress, reporting
from polystore.registration import BackendBase
from polystore.stat import Stat
from polystore.transfer.copying import load_and_save
from polystore.transfer.mapping import Pair
from polystore.transfer.proxies import Pairs, Rows
from polystore.transfer.stacking import save_rows
from polystore.writable import private
from polystore_ray.client.batch import array_bytes
from polystore_ray.client.chunks import hand_over
from polystore_ray.client.hosted_events import HostedEvents
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.transport.base import Transport

__all__ = ["HostedBackend"]

_PATHS_ASKED = 1024  # in one call
_WATCHED_FOR = 2.0  # seconds, in one call


class HostedBackend(StorageBackend):
    """Run the operations of a backend in its host on the caller's node, or on a named one.

    Every client of a node shares the one instance that lives there, in the node's own file
    system. Relative paths are made absolute with the caller's working directory. Large values
    pass through the object store; loaded arrays are read-only, unless ``load`` is told
    ``writable=True``. The backend's own errors arrive
    as themselves.

    Obtained as ``RayBackendRegistry()["disk"]``, or by any other key; as ``["disk@node-2"]`` it
    works on that node, whichever the caller's is.

    Raises
    ------
    HostLostError
        By every operation, if the host died during it; the next call has a new host.
    HostBusyError
        By every operation but those of batches, which wait, if the host has as many calls as it
        may.
    NodeNotFoundError
        By every operation, if the named node is not in the cluster.
    CallTimeoutError, StoreUnavailableError
        By every operation, if no answer comes in time, or the store cannot be reached.
    """

    def __init__(
        self,
        key: str,
        cls: type[BackendBase],
        connect: Callable[[], Transport],
        node: str | None = None,
    ) -> None:
        self._key = self._backend_type = key  # type: ignore[misc] # the class registers none
        self.hosted_class = cls
        self._connect = connect
        self._node = node

    def __repr__(self) -> str:
        where = "" if self._node is None else f"@{self._node}"
        return f"{type(self).__name__}({self._key + where!r})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # as pickle and copy ask for
            raise AttributeError(name)
        raise AttributeError(
            f"{name!r} is no operation of the storage contract, and a host runs no other of "
            f"{self.hosted_class.__name__}"
        )

    def load(self, path: P, *, writable: bool = False, **options: Any) -> Any:
        check_options(self.hosted_class, "load", options)
        value = self._call("load", path, **options)
        return private(value) if writable else value

    def _load_all(
        self, paths: Sequence[P], *, writable: bool = False, **options: Any
    ) -> Iterator[Any]:
        check_options(self.hosted_class, "load_batch", options)
        texts = self._all_portable(paths)
        first = 0
        while first < len(texts):
            # The host returns a piece of limited size, so that it never holds all values.
            piece = self._run("load_batch", texts[first : first + _PATHS_ASKED], **options)
            yield from private(piece) if writable else piece
            first += len(piece)
            if not piece:
                return

    def save(self, data: Any, path: P, *, parents: bool = False, **options: Any) -> None:
        check_options(self.hosted_class, "save", options)
        self._run("save", data, self.portable(path), **self._parents(parents), **options)

    def _save_all(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        step: Callable[..., None],
        *,
        parents: bool = False,
        **options: Any,
    ) -> None:
        check_options(self.hosted_class, "save_batch", options)
        texts = self._all_portable(paths)
        self._run("save_batch", list(values), texts, **self._parents(parents), **options)
        step(len(texts))

    def append(self, values: Any, path: P, *, axis: int = 0, **options: Any) -> int:
        check_options(self.hosted_class, "append", options)
        return int(self._run("append", values, self.portable(path), axis=axis, **options))

    def resize(self, path: P, shape: Sequence[int], **options: Any) -> None:
        check_options(self.hosted_class, "resize", options)
        self._call("resize", path, tuple(shape), **options)

    def watch(self, path: P, *, recursive: bool = True, timeout: float | None = None) -> Events:
        """Yield what happens in a directory of the node, as the backend's ``watch`` does there.

        The host keeps the watch, and one call after another waits for its events, each for two
        seconds at most.

        Raises
        ------
        WatchExpiredError
            By the iterator, if the host has ended, or was not asked for ten minutes.
        """
        transport = self._connect()

        def call(method: str, *arguments: Any, **options: Any) -> Any:
            # Not measured: a wait says nothing of the host.
            return self._connect().call_host(self._key, self._node, method, arguments, options)

        return HostedEvents(
            call,
            partial(self._as_given, path),
            min(_WATCHED_FOR, transport.deadline.left / 2),
            self.portable(path),
            recursive=recursive,
            timeout=timeout,
        )

    def awatch(
        self, path: P, *, recursive: bool = True, timeout: float | None = None
    ) -> AsyncIterator[Event]:
        """Yield as `watch` does, while the event loop goes on; it begins with the first step."""
        return async_events(partial(self.watch, path, recursive=recursive, timeout=timeout))

    exists = forwarded(StorageBackend.exists)
    is_file = forwarded(StorageBackend.is_file)
    is_dir = forwarded(StorageBackend.is_dir)
    is_symlink = forwarded(StorageBackend.is_symlink)
    list_dir = forwarded(StorageBackend.list_dir)
    delete = forwarded(StorageBackend.delete)
    delete_all = forwarded(StorageBackend.delete_all)

    def stat(self, path: P) -> Stat:
        stat: Stat = self._call("stat", path)
        return {**stat, "path": self._as_given(path, stat["path"])}

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        if isinstance(extensions, str):
            raise VFSTypeError(f"extensions is a set of endings: write {{{extensions!r}}}")
        endings = None if extensions is None else set(extensions)
        files = self._call("list_files", path, pattern, endings, recursive)
        return [self._as_given(path, file) for file in files]

    def ensure_directory(self, path: PathT) -> PathT:
        return as_given(path, self._as_given(path, self._call("ensure_directory", path)))

    def copy(self, source: P, destination: P) -> None:
        self._call("copy", source, self.portable(destination))

    def move(self, source: P, destination: P) -> None:
        self._call("move", source, self.portable(destination))

    # What moves many values: the host does it, and the caller sees none of them

    def walk(self, path: P, /, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        directories, files, others = self._call("walk", path, recursive)
        given = [[self._as_given(path, p) for p in found] for found in (directories, files, others)]
        return given[0], given[1], given[2]

    def send(
        self, target: StorageBackend, pairs: Pairs, progress: Progress = None, **options: Any
    ) -> None:
        if not isinstance(target, HostedBackend | ClusterMemoryBackend):
            load_and_save(self, target, pairs, progress, **options)
            return
        sources = self._all_portable([source for source, _ in pairs])
        targets = [path for _, path in pairs]
        if isinstance(target, HostedBackend):
            target, targets = target.placed(targets)
        self._hand_over("copy_to", target, sources, targets, progress, options)

    def receive(
        self, source: DataSource, pairs: Pairs, progress: Progress = None, **options: Any
    ) -> None:
        """Let the host load values of the cluster memory, and save them."""
        targets = self._all_portable([target for _, target in pairs])
        options |= self._parents(options.pop("parents", False))
        sources = [origin for origin, _ in pairs]
        self._hand_over("copy_from", source, sources, targets, progress, options)

    def check_convertible(self, paths: Sequence[P], /) -> None:
        self._run("check_convertible", self._all_portable(paths))

    def send_rows(self, target: StorageBackend, parts: Sequence[Rows]) -> Iterator[Rows]:
        for rows in parts:
            if isinstance(target, HostedBackend):
                here = replace(rows, paths=tuple(self._all_portable(rows.paths)))
                self._run("save_rows_to", target.placed()[0], here)
            else:
                save_rows(self, target, rows)
            yield rows

    def _hand_over(
        self,
        method: str,
        other: Any,
        sources: list[str],
        targets: list[str],
        progress: Progress,
        options: dict[str, Any],
    ) -> None:
        written: list[str] = []
        pairs = list(zip(sources, targets, strict=True))
        with (
            naming_written(written, len(pairs)),
            reporting(progress, len(pairs), "copying") as step,
        ):

            def done(part: Pairs) -> None:
                written.extend(target for _, target in part)
                step(len(part))

            hand_over(lambda part: self._run(method, other, part, **options), pairs, done)

    def placed(self, paths: Sequence[P] = ()) -> tuple[HostedBackend, list[str]]:
        """Return this backend, and paths in it, as what they are here but on another node."""
        node = self._node or self._connect().node
        there = HostedBackend(self._key, self.hosted_class, self._connect, node)
        return there, self._all_portable(paths)

    def run_tasks(
        self, call: Callable[[Pair], Any], pairs: Sequence[Pair], options: Mapping[str, Any]
    ) -> Iterator[Any]:
        return self._connect().attempts((((), call, (pair,)) for pair in pairs), dict(options))

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        self._call("create_symlink", source, self.portable(link), overwrite=overwrite)

    def _call(self, method: str, path: P, *arguments: Any, **options: Any) -> Any:
        return self._run(method, self.portable(path), *arguments, **options)

    _forward = _call

    def _run(self, method: str, *arguments: Any, **options: Any) -> Any:
        transport = self._connect()
        with transport.measured(self._key, method):
            result = transport.call_host(self._key, self._node, method, arguments, options)
        for moved in (arguments[0], result):
            values = moved if isinstance(moved, list) else [moved]
            transport.moved(self._key, method, array_bytes(values))
        return result

    def portable(self, path: P) -> str:
        """Return a path as it means the same in every process of the node."""
        return self._all_portable([path])[0]

    def _all_portable(self, paths: Sequence[P]) -> list[str]:
        options = self._connect().options_of(self._key, self._node)
        portable_path = hostable(self.hosted_class).portable_path
        return [portable_path(as_text(path, backend=self._key), **options) for path in paths]

    def has_root(self) -> bool:
        """Return whether the backend is kept to a directory of its own."""
        return self._connect().options_of(self._key, self._node).get("root") is not None

    def _as_given(self, path: P, result: str) -> str:
        """Return a path from the host as the caller would have seen it: relative to relative."""
        given, sent = str(path), self.portable(path)
        if given != sent and result.startswith(sent):
            return given + result[len(sent) :]
        return result

    def _parents(self, parents: bool) -> dict[str, bool]:
        return {"parents": parents} if issubclass(self.hosted_class, MakesParents) else {}
