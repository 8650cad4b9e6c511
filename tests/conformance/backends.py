"""Backends that only the kit's own tests use, and raw access to what backends store."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from polystore import (
    CorruptDataError,
    MemoryBackend,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    ReadOnlyBackend,
    StorageBackend,
)
from polystore.paths import normalize, split
from polystore.serialization import Sealed, seal
from polystore.testing import FileAccess


class ZarrAccess(FileAccess):
    """Raw access to zarr arrays, with nothing but zarr."""

    def write(self, value: Any, path: str) -> None:
        zarr.create_array(store=self.place(path), data=value)

    def read(self, path: str) -> Any:
        return zarr.open_array(store=self.place(path), mode="r")[...]

    def damage(self, path: str) -> Iterator[str]:
        # Not its metadata: without it a directory is no array.
        [chunk] = [file for file in (self.place(path) / "c").rglob("*") if file.is_file()]
        for how in super().damage(f"{self.shown_as}/{chunk.relative_to(self.top)}"):
            yield f"whose chunk was {how}"


class Shelf(StorageBackend):
    """The least an author has to write: five methods, one directory, no keyword."""

    _backend_type = "kit_shelf"

    def __init__(self) -> None:
        self._values: dict[str, Sealed] = {}

    def load(self, file_path: Any) -> Any:
        path = normalize(file_path)
        if path == "/":
            raise PathIsDirectoryError("this is the shelf", path=path, backend="kit_shelf")
        if path not in self._values:
            raise PathNotFoundError("no such book", path=path, backend="kit_shelf")
        return self._values[path].open()

    def save(self, data: Any, identifier: Any) -> None:
        path, sealed = normalize(identifier), seal(data).copied()
        if self._values.setdefault(path, sealed) is not sealed:
            raise PathExistsError("there is one already", path=path, backend="kit_shelf")

    def is_file(self, name: Any) -> bool:
        return normalize(name) in self._values

    def is_dir(self, name: Any) -> bool:
        return normalize(name) == "/"

    def list_dir(self, name: Any) -> list[str]:
        path = normalize(name)
        if path in self._values:
            raise PathNotDirectoryError("this is a book", path=path, backend="kit_shelf")
        if path != "/":
            raise PathNotFoundError("no such shelf", path=path, backend="kit_shelf")
        return sorted(path[1:] for path in list(self._values))


class Defaults(StorageBackend):
    """What has no default, of a memory; every other method is left at its default."""

    _backend_type = "kit_defaults"

    def __init__(self) -> None:
        self._memory = MemoryBackend()

    def load(self, path: Any, **options: Any) -> Any:
        return self._memory.load(path, **options)

    def save(self, data: Any, path: Any, *, overwrite: bool = False, parents: bool = False) -> None:
        self._memory.save(data, path, overwrite=overwrite, parents=parents)

    def is_file(self, path: Any) -> bool:
        return self._memory.is_file(path)

    def is_dir(self, path: Any) -> bool:
        return self._memory.is_dir(path)

    def list_dir(self, path: Any) -> list[str]:
        return self._memory.list_dir(path)

    def delete(self, path: Any) -> None:
        self._memory.delete(path)

    def ensure_directory(self, path: Any) -> str:
        return str(self._memory.ensure_directory(path))


class Archive(ReadOnlyBackend):
    """Arrays in zip files: ``/folder/images.zip/plate1/A01.npy``."""

    _backend_type = "kit_archive"

    def load(self, path: Any) -> Any:
        archive, name = self._split(path)
        if not self.exists(path):
            raise PathNotFoundError("no such member", path=str(path), backend="kit_archive")
        if self.is_dir(path):
            raise PathIsDirectoryError("a directory", path=str(path), backend="kit_archive")
        try:
            with zipfile.ZipFile(archive) as opened:
                return np.load(io.BytesIO(opened.read(name)), allow_pickle=False)
        except (EOFError, ValueError, zipfile.BadZipFile) as error:
            raise CorruptDataError("damaged", path=str(path), backend="kit_archive") from error

    def is_file(self, path: Any) -> bool:
        archive, name = self._split(path)
        return name in self._names(archive)

    def is_dir(self, path: Any) -> bool:
        archive, name = self._split(path)
        return not name or any(member.startswith(f"{name}/") for member in self._names(archive))

    def list_dir(self, path: Any) -> list[str]:
        archive, name = self._split(path)
        if self.is_file(path):
            raise PathNotDirectoryError("a file", path=str(path), backend="kit_archive")
        if not self.is_dir(path):
            raise PathNotFoundError("no such member", path=str(path), backend="kit_archive")
        below = [f"/{member}" for member in self._names(archive)]
        prefix = f"/{name}/" if name else "/"
        return sorted({m[len(prefix) :].split("/")[0] for m in below if m.startswith(prefix)})

    def _split(self, path: Any) -> tuple[str, str]:
        names = split(path, backend="kit_archive")
        ends = [i for i, name in enumerate(names, 1) if name.endswith(".zip")] or [0]
        return "/" + "/".join(names[: ends[0]]), "/".join(names[ends[0] :])

    def _names(self, archive: str) -> list[str]:
        if not zipfile.is_zipfile(archive):
            return []
        with zipfile.ZipFile(archive) as opened:
            return opened.namelist()


class ArchiveAccess(FileAccess):
    """Raw access to one zip file, whose members are found by their bytes, as nothing is packed."""

    def __init__(self, archive: Path) -> None:
        super().__init__(archive.parent, str(archive.parent))
        self.archive = archive

    def write(self, value: Any, path: str) -> None:
        with zipfile.ZipFile(self.archive, "a") as opened:
            opened.writestr(path.removeprefix(f"{self.archive}/"), self.encode(value))

    def damage(self, path: str) -> Iterator[str]:
        with zipfile.ZipFile(self.archive) as opened:
            member = opened.getinfo(path.removeprefix(f"{self.archive}/"))
        stored = bytearray(self.archive.read_bytes())
        start = member.header_offset + 30 + len(member.filename)
        stored[start : start + 8] = b"nonsense"
        self.archive.write_bytes(stored)
        yield "whose first bytes were overwritten"
