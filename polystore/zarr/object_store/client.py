"""The objects of a store that a URL names, through fsspec: caches off, globs off, errors ours."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, TypeVar
from weakref import WeakKeyDictionary

from fsspec import available_protocols
from fsspec.asyn import get_loop
from fsspec.core import url_to_fs
from fsspec.dircache import DirCache

from polystore.exceptions import (
    MissingDependencyError,
    PathMismatchError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    StorageWriteError,
    UnsupportedOperationError,
    brought_by,
)
from polystore.paths import join, split
from polystore.zarr.array.groups import MOST_METADATA
from polystore.zarr.object_store.urls import Url

__all__ = ["Found", "RemoteObjects"]

T = TypeVar("T")

_CONCURRENT_REQUESTS = 32  # requests of one operation
_EXTRAS = {"s3": "s3", "s3a": "s3"}
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# Which hold an object at a key that others lie below.
_FLAT = ("adlfs", "gcsfs", "obstore", "s3fs")
# Whose `pipe_file(..., mode="create")` is one step.
_CONDITIONAL = ("adlfs", "fsspec.implementations.memory", "gcsfs", "s3fs")
# What S3, or a store that speaks its language, answers to a conditional put that lost.
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}

_file_systems: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_locks: dict[type, threading.Lock] = {}


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a key: an object of this size, or only others below it."""

    kind: Literal["file", "directory"]
    size: int


class RemoteObjects:
    """Bytes under keys such as ``"plate/0/zarr.json"``, below a URL.

    Its operations are coroutines: `wait` runs one, `begin` begins one, and `elsewhere` awaits one
    in any event loop.
    A put is whole or nothing. Asking creates nothing.

    - `options`: what fsspec calls ``storage_options``

    Raises `PathMismatchError` if fsspec knows no such scheme; `MissingDependencyError` if the
    package for the scheme is not installed.
    """

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._url = url
        self._options = dict(options)
        self._open()

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteObjects, (self._url, self._options)

    def __repr__(self) -> str:
        return f"RemoteObjects({self.url!r})"

    @property
    def url(self) -> str:
        """The URL below which the keys lie."""
        return self._url.site + self._url.path

    @property
    def lists(self) -> bool:
        """Whether a key is found by what lies below it; a web server tells nothing of that."""
        return not self._url.site.startswith(("http://", "https://"))

    @property
    def is_flat(self) -> bool:
        """Whether an object and others below its key can be there at once, as in no directory."""
        return type(self._fs).__module__.startswith(_FLAT)

    def _open(self) -> None:
        scheme = self._url.site.partition("://")[0].rpartition("::")[2]
        try:
            fs, path = url_to_fs(self._url.site, **self._options)
            fs = _uncached(fs)
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            cure = brought_by(extra) if extra else str(error)
            raise MissingDependencyError(
                f"{scheme}:// needs a package that is not installed; {cure}", path=self.url
            ) from error
        except Exception as error:
            if scheme not in available_protocols():
                raise PathMismatchError(
                    f"nothing is known of {scheme}://", path=self.url
                ) from error
            raise StorageResolutionError(
                f"the store cannot be opened with these storage_options "
                f"({type(error).__name__}: {error})",
                path=self.url,
            ) from error
        self._fs, self._process = fs, os.getpid()
        below = join(split(self._url.path or "/"))
        self._base = path.rstrip("/") + below.rstrip("/")

    # Running

    def begin(self, operation: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin an operation in the event loop of the file system."""
        return asyncio.run_coroutine_threadsafe(operation, self._loop())

    def wait(self, operation: Coroutine[Any, Any, T]) -> T:
        """Return the result of an operation, once it is there."""
        return self.begin(operation).result()

    async def elsewhere(self, operation: Coroutine[Any, Any, T]) -> T:
        """Await an operation in an event loop that is not the file system's."""
        return await asyncio.wrap_future(self.begin(operation))

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._process != os.getpid():  # connections do not survive a fork
            self._open()
        loop: asyncio.AbstractEventLoop = self._fs.loop if self._fs.async_impl else get_loop()
        return loop

    async def together(self, operations: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Return the results of many operations that run at once; all of them have ended."""
        limit = asyncio.Semaphore(_CONCURRENT_REQUESTS)

        async def limited(operation: Coroutine[Any, Any, T]) -> T:
            async with limit:
                return await operation

        results = await asyncio.gather(*map(limited, operations), return_exceptions=True)
        values: list[T] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            values.append(result)
        return values

    # Operations

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Return the bytes at a key, or a part of them; None where there is no object."""
        with _absent():
            return await self._read(self._path(key), start, end)
        return None

    async def metadata(self, key: str) -> bytes | None:
        """Return the metadata at a key, None where there is no object.

        Of what is larger than any metadata that are believed, only the start is read.
        """
        return await self.get(key, 0, MOST_METADATA + 1)

    async def _read(self, path: str, start: int, end: int | None) -> bytes:
        try:
            # A range also of the whole, of which s3fs would ask the size first.
            return bytes(await self._request("cat_file", path, start=start, end=end))
        except UnsupportedOperationError:  # a range that is open at one end, in obstore
            return bytes(await self._request("cat_file", path))[start:end]
        except StorageError as error:
            if "not satisfiable" in str(error.__cause__):  # an empty object has no range
                return b""
            raise

    async def put(self, key: str, data: bytes) -> None:
        """Set the object at a key."""
        await self._request("pipe_file", self._path(key), data, writing=True)

    async def create(self, key: str, data: bytes) -> bool:
        """Set the object at a key where there is none; return whether it was set.

        Of several that create one key, one succeeds, if the file system knows conditional puts. Of
        another one, the last of those that meet.
        """
        if not type(self._fs).__module__.startswith(_CONDITIONAL):
            return await self._create_in_steps(key, data)
        try:
            await self._request("pipe_file", self._path(key), data, mode="create", writing=True)
        except StorageWriteError as error:
            code = _code(error.__cause__)
            if code == "NotImplemented":  # by a server like S3
                return await self._create_in_steps(key, data)
            if isinstance(error.__cause__, FileExistsError) or code in _TAKEN:
                return False
            # Other file systems have errors of their own for a key that is taken.
            if await self.get(key) is not None:
                return False
            raise
        return True

    async def _create_in_steps(self, key: str, data: bytes) -> bool:
        if await self.get(key) is not None:
            return False
        await self.put(key, data)
        return await self.get(key) == data

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, which may be gone already."""
        # One by one: in bulk s3fs reports no failure, and fsspec takes names for globs.
        await self.together(self._delete(key) for key in keys)

    async def _delete(self, key: str) -> None:
        with _absent():
            await self._request("rm_file", self._path(key), writing=True)

    async def copy(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Copy objects from key to key, in the store where it can.

        Raises `PathNotFoundError` if one is not there.
        """
        await self.together(
            self._request("cp_file", self._path(source), self._path(target), writing=True)
            for source, target in pairs
        )

    async def find(self, key: str) -> Found | None:
        """Return what is at a key, None for nothing."""
        with _absent():
            info = await self._request("info", self._path(key))
            kind: Any = "directory" if info["type"] == "directory" else "file"
            return Found(kind, int(info.get("size") or 0))
        return None

    async def entries(self, key: str) -> tuple[set[str], set[str]]:
        """Return the names below a key: of objects, and of those that have others below them."""
        objects: set[str] = set()
        directories: set[str] = set()
        with _absent():
            for info in await self._request("ls", self._path(key), detail=True):
                name = self._below(key, info["name"])
                # Consoles of S3 mark a folder by an empty object whose name ends with a slash.
                if name:
                    (directories if info["type"] == "directory" else objects).add(name)
        return objects, directories

    async def below(self, key: str) -> dict[str, int]:
        """Return the size of every object below a key, by its name from there."""
        found: dict[str, int] = {}
        for path, info in (await self._found(key)).items():
            name = self._below(key, path)
            if name:
                found[name] = int(info.get("size") or 0)
        return found

    async def is_marked(self, key: str) -> bool:
        """Return whether a console has marked a folder at or below a key, which fsspec keeps."""
        return any(path.endswith("/") for path in await self._found(key))

    async def _found(self, key: str) -> dict[str, Any]:
        with _absent():
            found: dict[str, Any] = await self._request("find", self._path(key), detail=True)
            return found
        return {}

    def modified(self, key: str) -> float | None:
        """Return when an object was set, in seconds since the epoch; None where nobody knows."""
        try:
            if self._fs.async_impl:
                found = self._fs.modified(self._path(key))
            else:
                found = _one_at_a_time(self._fs, "modified", (self._path(key),), {})
        except (*_ABSENT, NotImplementedError):
            return None
        except Exception as error:  # noqa: BLE001 - as in _request
            self._raise(error, writing=False)
        if isinstance(found, datetime):
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        return float(found) if isinstance(found, int | float) else None

    # Requests

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}" if key else self._base

    def _below(self, key: str, path: str) -> str:
        """Return the name, from a key on, of a path of the file system; "" for the key itself."""
        prefix = self._path(key).lstrip("/")
        name = path.lstrip("/")
        if prefix:
            name = name[len(prefix) + 1 :] if name.startswith(f"{prefix}/") else ""
        return name.rstrip("/")

    async def _request(
        self, operation: str, *arguments: Any, writing: bool = False, **options: Any
    ) -> Any:
        fs = self._fs
        try:
            if fs.async_impl:
                # The names of fsspec's coroutines.
                return await getattr(fs, f"_{operation}")(*arguments, **options)
            return await asyncio.to_thread(_one_at_a_time, fs, operation, arguments, options)
        except Exception as error:  # noqa: BLE001 - every file system has exceptions of its own
            self._raise(error, writing=writing)

    def _raise(self, error: Exception, *, writing: bool) -> NoReturn:
        """Raise what an error of a file system means."""
        if _code(error) == "NoSuchBucket":
            raise PathNotFoundError(
                f"the bucket of {self.url} does not exist, and saving makes none"
            ) from error
        if isinstance(error, FileNotFoundError) or (not writing and isinstance(error, _ABSENT)):
            raise PathNotFoundError("no such file or directory") from error
        if isinstance(error, NotImplementedError):
            raise UnsupportedOperationError(
                f"{type(self._fs).__name__} cannot do this ({error})"
            ) from error
        kind = StorageWriteError if writing else StorageError
        raise kind(
            f"{self.url} could not be {'written' if writing else 'read'} "
            f"({type(error).__name__}: {error})"
        ) from error


@contextmanager
def _absent() -> Iterator[None]:
    """End the block where there is no object; raise where there is no bucket either."""
    try:
        yield
    except PathNotFoundError as error:
        if _code(error.__cause__) == "NoSuchBucket":
            raise


def _uncached(fs: Any) -> Any:
    """Return a file system as this one that remembers no listings, in which saves do not show."""
    own = _file_systems.get(fs)
    if own is None:
        # This one stays as it is: others in the process have it too.
        own = type(fs)(*fs.storage_args, **{**fs.storage_options, "skip_instance_cache": True})
        own.dircache = DirCache(use_listings_cache=False)
        _file_systems[fs] = own
    return own


def _forget() -> None:
    """Leave to its parent what a forked process cannot use: connections, and held locks."""
    _file_systems.clear()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _one_at_a_time(fs: Any, operation: str, arguments: Any, options: Any) -> Any:
    """Call a file system that is not asynchronous, and mostly not meant for several threads."""
    with _locks.setdefault(type(fs), threading.Lock()):
        return getattr(fs, operation)(*arguments, **options)


def _code(error: BaseException | None) -> str:
    """Return the code of the answer of S3 that led to an error, "" for none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""
