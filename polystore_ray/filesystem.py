"""The fsspec filesystem: ``polystore://memory/plate1/a.npy`` wherever fsspec's URLs are taken."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from polystore.exceptions import (
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotFoundError,
    missing_dependency,
)
from polystore.paths import split
from polystore_ray.client.hosted import HostedBackend
from polystore_ray.interop.file_facts import described, directory_facts, size_of
from polystore_ray.interop.literal_paths import LiteralPaths
from polystore_ray.interop.stored_files import append, content, make_directory, read, replace
from polystore_ray.interop.writing import CompressedFile, TextFile, WritableFile, save_flushed
from polystore_ray.registry import RayBackendRegistry

try:
    from fsspec.compression import compr
    from fsspec.core import get_compression
    from fsspec.spec import AbstractBufferedFile
except ImportError as error:
    raise missing_dependency("the filesystem", error, "fsspec") from error

__all__ = ["PolystoreFileSystem"]

_MODES = ("rb", "wb", "xb", "ab", "r+b", "w+b", "x+b", "a+b")
_TEXT = ("encoding", "errors", "newline")


class PolystoreFileSystem(LiteralPaths):
    """The backends of a store as directories of files, for all that takes URLs of fsspec.

    The first name of a path is the key of a backend, as the registry takes it; the rest is the
    path in that backend: ``polystore://memory/plate1/a.npy``, ``polystore://disk/data/a.parquet``.

    What is written is published whole when the file is closed, and not at all if an error ends its
    ``with`` block, also where text, a compression, `fsspec.open` or pandas are in between. A file
    that nobody closes is saved when it is collected, with a `ResourceWarning`. Parents are made. A
    file that is open for reading stays as it was. In the memory no append is lost (``"ab"``), and
    ``"r+b"`` raises `VersionConflictError` if another writer came first; the backend ``disk`` keeps
    no versions, and there the last writer wins over those of other processes.

    In the memory, an array appears as the bytes that the suffix of its path says, bytes as they
    are, and any other value as its suffix says. Where the suffix says nothing, an array appears as
    ``.npy``, text as it is, what JSON holds as JSON, and any other value as its pickle. What is
    written there becomes an array if its suffix is ``.npy``, and a plain array of its bytes (uint8)
    otherwise: readers see views of shared memory. Files of the backend ``disk`` are their bytes.

    Opening a value runs what its author chose, as loading it does; questions (``info``, ``du``) run
    nothing, and return the stored size if only opening the value would tell the size of the file.

    A path that exists is taken as it is, also if it looks like a pattern. ``..`` is refused.

    Parameters
    ----------
    store : str, default "default"
        The name of the store, as of `RayBackendRegistry`.
    lifetime : {"job", "detached"}, default "job"
        Same as for `RayBackendRegistry`.
    local : bool, optional
        Same as for `RayBackendRegistry`.
    address : str, optional
        The cluster to connect to, if this process is not connected to one; as of `ray.init`.
    **options
        Same as for fsspec's ``AbstractFileSystem``.

    Raises
    ------
    StorageError
        By every operation, as of the backend; each is also what fsspec's callers catch.

    Examples
    --------
    >>> import fsspec
    >>> import numpy as np
    >>> options = {"store": "files", "local": True}
    >>> with fsspec.open("polystore://memory/plate1/a.npy", "wb", **options) as file:
    ...     np.save(file, np.arange(3))
    >>> from polystore_ray import RayBackendRegistry
    >>> RayBackendRegistry(**options)["memory"].load("/plate1/a.npy")
    array([0, 1, 2])
    """

    protocol = "polystore"
    root_marker = ""

    def __init__(
        self,
        store: str = "default",
        *,
        lifetime: Literal["job", "detached"] = "job",
        local: bool | None = None,
        address: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._registry = RayBackendRegistry(store, lifetime=lifetime, local=local)
        self._address = address

    def __reduce__(self) -> Any:
        return _made_again, (self._registry, type(self), self.storage_args, self.storage_options)

    # Where a path leads

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.lstrip("/")

    def _at(self, path: Any) -> tuple[Any, str]:
        """Return the backend of a path, and the path in it."""
        stripped = self._strip_protocol(path)
        key, _, rest = stripped.partition("/")
        if not key:
            raise InvalidPathError(
                "a URL names a backend and a path in it, as polystore://memory/plate1/a.npy does",
                path=str(path),
            )
        if ".." in rest.split("/"):
            raise InvalidPathError(
                "a URL leads down from its backend, without '..'", path=str(path)
            )
        if self._address is not None:
            from polystore_ray.transport.connect import start_ray

            start_ray(self._address)
        return self._registry[key], f"/{rest}"

    def _is_root(self, path: Any) -> bool:
        return not self._strip_protocol(path)

    # Questions

    def info(self, path: Any, **options: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        if not name:
            return directory_facts(name)
        backend, location = self._at(path)
        facts = described(backend, location, name)
        if facts is None:
            raise PathNotFoundError("no such file or directory", path=name)
        if facts["type"] == "file" and facts["size"] is None:
            facts["size"] = size_of(self._registry, backend, location)
        return facts

    def ls(self, path: Any, detail: bool = True, **options: Any) -> list[Any]:
        """List a directory, or a file; the size of what has to be encoded for it is None."""
        name = self._strip_protocol(path)
        if not name:
            keys = sorted(self._registry)
            return [directory_facts(key) for key in keys] if detail else keys
        backend, location = self._at(path)
        if not backend.is_dir(location):
            return [self.info(path)] if detail else [self.info(path)["name"]]
        names = [f"{name}/{child}" for child in backend.list_dir(location)]
        if not detail:
            return names
        found = (described(backend, self._at(child)[1], child) for child in names)
        return [facts for facts in found if facts is not None]

    # Unlike fsspec's own, these three raise when the store cannot be reached.

    def exists(self, path: Any, **options: Any) -> bool:
        if self._is_root(path):
            return True
        backend, location = self._at(path)
        return bool(backend.exists(location))

    def isfile(self, path: Any) -> bool:
        if self._is_root(path):
            return False
        backend, location = self._at(path)
        return bool(backend.is_file(location))

    def isdir(self, path: Any) -> bool:
        if self._is_root(path):
            return True
        backend, location = self._at(path)
        return bool(backend.is_dir(location))

    def modified(self, path: Any) -> datetime:
        return datetime.fromtimestamp(self.info(path)["modified"], UTC)

    # Reading and writing

    def cat_file(
        self, path: Any, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        return bytes(content(*self._at(path))[start:end])

    def pipe_file(self, path: Any, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if self._intrans:  # the transaction saves it, or does not
            with self.open(path, "xb" if mode == "create" else "wb") as file:
                file.write(value)
        else:
            replace(*self._at(path), bytes(value), overwrite=mode != "create")

    def _open(
        self,
        path: Any,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **options: Any,
    ) -> Any:
        if mode not in _MODES:
            raise ValueError(f"a file is opened with one of {', '.join(_MODES)}, not {mode!r}")
        backend, location = self._at(path)
        if mode == "rb":
            try:
                return _Reading(self, path, content(backend, location))
            except PathNotFoundError:
                if not save_flushed(self._key_of(path)):
                    raise
                return _Reading(self, path, content(backend, location))
        if backend.is_dir(location):
            raise PathIsDirectoryError("the path is a directory", path=str(path))
        if mode.startswith("x") and backend.exists(location):
            raise PathExistsError("the path exists already", path=str(path))
        before: bytes | None = None
        save = partial(replace, backend, location, overwrite=mode.startswith("w"))
        if mode.startswith("a"):
            before, _ = read(backend, location)
            save = partial(append, backend, location)
        elif mode.startswith("r"):
            before, version = read(backend, location)
            if before is None:
                raise PathNotFoundError("no such file", path=str(path))
            save = partial(replace, backend, location, overwrite=True, if_version=version)
        name = self._key_of(path)
        return WritableFile(name, mode, save, before or b"", autocommit=autocommit)

    def open(
        self,
        path: Any,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: Any = None,
        compression: str | None = None,
        **options: Any,
    ) -> Any:
        """Open a file as fsspec does; what is written owns all that it goes through."""
        if mode in ("r", "rt", "rb"):
            return super().open(path, mode, block_size, cache_options, compression, **options)
        if "b" not in mode:
            texts = {key: options.pop(key) for key in _TEXT if key in options}
            binary = mode.replace("t", "") + "b"
            file = self.open(path, binary, block_size, cache_options, compression, **options)
            return TextFile(file, **texts)
        file = super().open(path, mode, block_size, cache_options, **options)
        method = get_compression(path, compression)
        return file if method is None else CompressedFile(compr[method](file, mode=mode[0]), file)

    def touch(self, path: Any, truncate: bool = True, **options: Any) -> None:
        """Make an empty file; with ``truncate=False`` a file that exists stays as it is."""
        if truncate:
            self.pipe_file(path, b"")
        elif not self.exists(path):
            with suppress(PathExistsError):  # another process made it
                self.pipe_file(path, b"", mode="create")

    def _key_of(self, path: Any) -> str:
        return f"{self.protocol}://{self._strip_protocol(path)} of store {self._registry!r}"

    # The tree

    def mkdir(self, path: Any, create_parents: bool = True, **options: Any) -> None:
        backend, location = self._at(path)
        if backend.exists(location):
            raise PathExistsError("the path exists already", path=str(path))
        if not create_parents and not backend.is_dir(location.rpartition("/")[0] or "/"):
            raise PathNotFoundError("the parent directory is missing", path=str(path))
        make_directory(backend, location)

    def makedirs(self, path: Any, exist_ok: bool = False) -> None:
        backend, location = self._at(path)
        if not exist_ok and backend.exists(location):
            raise PathExistsError("the path exists already", path=str(path))
        make_directory(backend, location)

    def rmdir(self, path: Any) -> None:
        backend, location = self._at(path)
        if backend.is_file(location):
            raise NotADirectoryError(str(path))
        backend.delete(location)

    def rm_file(self, path: Any) -> None:
        backend, location = self._at(path)
        backend.delete(location)

    def _rm(self, path: Any) -> None:
        self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete files, and with `recursive` whole trees, each in one step."""
        if not recursive or maxdepth is not None:
            super().rm(path, recursive, maxdepth)
            return
        for found in self.expand_path(path):
            backend, location = self._at(found)
            if split(location):
                backend.delete_all(location)
            else:
                self._empty(backend, found)

    def _empty(self, backend: Any, path: str) -> None:
        """Delete all that a backend holds, the root itself stays."""
        if isinstance(backend, HostedBackend) and not backend.has_root():
            raise InvalidPathError(
                "this would delete all files of the machine; use a backend with a root", path=path
            )
        for name in backend.list_dir("/"):
            with suppress(PathNotFoundError):  # another process deleted it
                backend.delete_all(f"/{name}")

    def cp_file(self, path1: Any, path2: Any, **options: Any) -> None:
        source, origin = self._at(path1)
        target, location = self._at(path2)
        if source.is_dir(origin):
            target.ensure_directory(location)
        elif source is target and not target.exists(location):
            target.ensure_directory(location.rpartition("/")[0] or "/")
            target.copy(origin, location)
        else:
            replace(target, location, bytes(content(source, origin)), overwrite=True)

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **options: Any,
    ) -> None:
        """Move as fsspec does; a file or a whole tree to a free path of its backend in one step."""
        if isinstance(path1, str) and isinstance(path2, str) and maxdepth is None:
            source, origin = self._at(path1)
            target, location = self._at(path2)
            whole = source.is_file(origin) or (recursive and source.is_dir(origin))
            if whole and source is target and not (path2.endswith("/") or target.exists(location)):
                target.ensure_directory(location.rpartition("/")[0] or "/")
                target.move(origin, location)
                return
        super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **options)


class _Reading(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is read from the memory in which it is."""

    def __init__(self, fs: PolystoreFileSystem, path: str, content: memoryview) -> None:
        self._content = content
        super().__init__(fs, path, cache_type="none", size=len(content))

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self._content[start:end])


def _made_again(
    registry: RayBackendRegistry, cls: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    # Not fsspec's own instance of these arguments, which may be of another store.
    made = cls(*arguments, **options, skip_instance_cache=True)
    made._registry = registry
    return made
