"""The files of a dump, in a directory or at a URL; each is written whole or not at all."""

from __future__ import annotations

import hashlib
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from polystore.atomic import atomic_write
from polystore.error_translation import os_errors
from polystore.exceptions import (
    CorruptDataError,
    PathNotFoundError,
    StorageResolutionError,
    missing_dependency,
)
from polystore.paths import P, as_text

__all__ = ["DumpFile", "DumpFiles", "files_at"]

Buffer = Any  # anything with the buffer protocol


class DumpFile(NamedTuple):
    """A file of a dump: its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


class DumpFiles(ABC):
    """The files of a dump by name. It pickles, so that tasks write and read them too."""

    where: str
    """The directory or URL."""

    @abstractmethod
    def write(self, name: str, pieces: Iterable[Buffer]) -> DumpFile:
        """Write a file whole, replacing one of the same name."""

    @abstractmethod
    def read(self, name: str) -> Buffer:
        """Return the bytes of a file; raise `PathNotFoundError` if it is missing."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all files; none where nothing is."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file."""

    def describe(self, name: str) -> DumpFile:
        """Return the size and the checksum of a file as it is."""
        data = memoryview(self.read(name))
        return DumpFile(name, len(data), hashlib.sha256(data).hexdigest())

    def path_of(self, name: str) -> str:
        """Return where a file is, for errors."""
        return f"{self.where.rstrip('/')}/{name}"

    def read_checked(self, file: DumpFile) -> memoryview:
        """Return the bytes of a file.

        Raises `CorruptDataError` if it is missing, or its bytes are not those that were written.
        """
        try:
            data = memoryview(self.read(file.name))
        except PathNotFoundError as error:
            raise CorruptDataError("a file of the dump is missing", path=error.path) from error
        if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
            raise CorruptDataError(
                f"a file of the dump is damaged: its {len(data)} bytes do not have the SHA-256 "
                f"that the manifest says",
                path=self.path_of(file.name),
            )
        return data

    def check(self, file: DumpFile) -> None:
        """Raise as `read_checked`."""
        self.read_checked(file)


def files_at(where: P, storage_options: Mapping[str, Any] | None = None) -> DumpFiles:
    """Return the files in a directory or at a URL, which needs the extra ``remote``."""
    text = as_text(where)
    if "://" not in text:
        return _LocalFiles(text)
    try:
        return _remote_files(text, storage_options or {})
    except ModuleNotFoundError as error:
        raise missing_dependency("a dump at a URL", error, "remote") from error


class _LocalFiles(DumpFiles):
    def __init__(self, directory: str) -> None:
        self.where = os.path.abspath(directory)

    def write(self, name: str, pieces: Iterable[Buffer]) -> DumpFile:
        counted = _Counted(pieces)
        with atomic_write(self.path_of(name), "wb") as file:
            for piece in counted:
                file.write(piece)
        return counted.file(name)

    def read(self, name: str) -> Buffer:
        path = self.path_of(name)
        with os_errors(path, None, refused=StorageResolutionError), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""

    def names(self) -> list[str]:
        with (
            suppress(PathNotFoundError),
            os_errors(self.where, None, refused=StorageResolutionError),
        ):
            return sorted(os.listdir(self.where))
        return []

    def delete(self, name: str) -> None:
        with os_errors(self.path_of(name), None):
            os.remove(self.path_of(name))


def _remote_files(url: str, options: Mapping[str, Any]) -> DumpFiles:
    from polystore.zarr.object_store.client import RemoteObjects
    from polystore.zarr.object_store.urls import as_url

    parsed = as_url(url)
    if parsed is not None and parsed.local is not None:
        return _LocalFiles(parsed.local)
    assert parsed is not None  # noqa: S101 - the text has a scheme
    return _RemoteFiles(url, RemoteObjects(parsed, options))


class _RemoteFiles(DumpFiles):
    def __init__(self, url: str, objects: Any) -> None:
        self.where, self._objects = url, objects

    def write(self, name: str, pieces: Iterable[Buffer]) -> DumpFile:
        counted = _Counted(pieces)
        self._objects.wait(self._objects.put(name, b"".join(counted)))
        return counted.file(name)

    def read(self, name: str) -> Buffer:
        data = self._objects.wait(self._objects.get(name))
        if data is None:
            raise PathNotFoundError("no such file", path=self.path_of(name))
        return data

    def names(self) -> list[str]:
        files, directories = self._objects.wait(self._objects.entries(""))
        return sorted(files | directories)

    def delete(self, name: str) -> None:
        self._objects.wait(self._objects.delete([name]))


class _Counted:
    """Pieces of a file, whose size and checksum are known once all are taken."""

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._pieces = pieces
        self._size = 0
        self._hash = hashlib.sha256()

    def __iter__(self) -> Any:
        for piece in self._pieces:
            self._size += memoryview(piece).nbytes
            self._hash.update(piece)
            yield piece

    def file(self, name: str) -> DumpFile:
        return DumpFile(name, self._size, self._hash.hexdigest())
