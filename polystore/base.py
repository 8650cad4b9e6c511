"""The contract of a backend: reading, writing, and both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from polystore.arguments import check_batch, check_collection, path_exists
from polystore.async_methods import in_a_thread
from polystore.capabilities import (
    Deletable,
    MakesParents,
    accepting,
    accepts,
    unsupported,
)
from polystore.error_translation import located, naming_written
from polystore.events import Event
from polystore.exceptions import UnsupportedOperationError
from polystore.keywords import check_options
from polystore.paths import NameFilter, P, as_text, display, file_order
from polystore.progress import Progress, reporting
from polystore.registration import BackendBase
from polystore.stat import Stat
from polystore.traversal import (
    check_copy,
    check_parent,
    children,
    copy_tree,
    files_below,
    walk_tree,
)

__all__ = ["DataSink", "DataSource", "ReadOnlyBackend", "Stat", "StorageBackend", "accepts"]


class DataSource(ABC):
    """The reading half of a backend.

    Four methods are abstract. The others have defaults built on them, which are correct for any
    backend; override them for speed. Parameter names are free to implementers, since callers pass
    paths positionally.
    """

    _backend_type: ClassVar[str | None] = None

    @abstractmethod
    def load(self, path: P, /, *args: Any, **options: Any) -> Any:
        """Return the value at `path`.

        Backends that keep values in memory return arrays, also those in dicts, lists and tuples,
        as read-only views. Every other value is new for each caller and can be changed in place.
        The backends of polystore, and `FileManager.load` for any backend, take ``writable=True``:
        arrays are then private copies that can be changed in place.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathTypeError
            If it is a directory.
        """

    @abstractmethod
    def is_file(self, path: P, /) -> bool:
        """Return whether `path` leads, also through links, to a value."""

    @abstractmethod
    def is_dir(self, path: P, /) -> bool:
        """Return whether `path` leads, also through links, to a directory."""

    @abstractmethod
    def list_dir(self, path: P, /) -> list[str]:
        """Return the names in a directory, in plain order.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathTypeError
            If it is not a directory.
        """

    def exists(self, path: P, /) -> bool:
        """Return whether `path` leads to anything; a dangling link does not."""
        return self.is_file(path) or self.is_dir(path)

    def is_symlink(self, path: P, /) -> bool:
        """Return whether `path` itself is a link."""
        return False

    @accepting("progress")
    def load_batch(self, paths: Sequence[P], /, *args: Any, **options: Any) -> list[Any]:
        """Return the values at `paths`, in their order.

        Parameters
        ----------
        paths : sequence of str or os.PathLike
            Files.
        progress : callable or bool, optional
            Called with the number of values loaded so far and the number of all; `True` shows a
            bar.
        *args, **options
            Passed to each `load`.

        Raises
        ------
        VFSTypeError
            If `paths` is a single path.
        """
        check_collection(paths, "paths", backend=self._backend_type)
        check_options(type(self), "load_batch", options)
        progress: Progress = options.pop("progress", None)
        loading = self._load_all(paths, *args, **options)
        if not progress:
            return list(loading)
        values: list[Any] = []
        with reporting(progress, len(paths), "loading") as step:
            for value in loading:
                values.append(value)
                step()
        return values

    def _load_all(self, paths: Sequence[P], *args: Any, **options: Any) -> Iterable[Any]:
        """Yield the values of a batch; override this to load several at a time."""
        return (self.load(path, *args, **options) for path in paths)

    def walk(self, path: P, /, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        """Return the directories at and below a directory, the files, and everything else.

        Parameters
        ----------
        path : str or os.PathLike
            A directory; it is the first of the directories.
        recursive : bool, default True
            Whether to descend into directories. Links to directories are listed as directories,
            and never descended.

        Returns
        -------
        directories, files, others : list of str
            Each path once, in no order. The others are dangling links, and files that the backend
            cannot read.
        """
        return walk_tree(self, as_text(path, backend=self._backend_type), recursive)

    def list_files(
        self,
        path: P,
        /,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        """Return the paths of the files in a directory, shallow first, then in plain order.

        Links to directories are not descended. The default calls `list_dir` once for each
        directory, and `is_dir` and `is_file` once for each name.

        Parameters
        ----------
        path : str or os.PathLike
            A directory.
        pattern : str, optional
            A glob on the base name; case matters.
        extensions : iterable of str, optional
            Suffixes with their dot; case does not matter. A file must match both this and
            `pattern`.
        recursive : bool, default False
            Whether to descend into directories.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathTypeError
            If it is not a directory.
        """
        with located(path, self._backend_type):
            selected = NameFilter(pattern, extensions)
        top = as_text(path, backend=self._backend_type)
        found = files_below(self, top, selected, recursive=recursive)
        return sorted(found, key=file_order)

    def stat(self, path: P, /) -> Stat:
        """Describe `path`, also a missing one; see `Stat` for the keys."""
        text = as_text(path, backend=self._backend_type)
        exists = self.exists(path)
        if self.is_symlink(path):
            return {"type": "symlink", "path": text, "exists": exists}
        if not exists:
            return {"type": "missing", "path": text, "exists": False}
        return {"type": "directory" if self.is_dir(path) else "file", "path": text, "exists": True}

    @unsupported
    def watch(self, path: P, /, *args: Any, **options: Any) -> Iterator[Event]:
        """Yield an event for each change at `path` and below it, from this call on."""
        raise UnsupportedOperationError(
            f"{type(self).__name__} does not support watch; list the directory again",
            path=display(path),
            backend=self._backend_type,
        )

    aload = in_a_thread(load)
    aload_batch = in_a_thread(load_batch)


class DataSink(ABC):
    """The writing half of a backend: `save` is abstract, the other methods are optional."""

    _backend_type: ClassVar[str | None] = None

    @abstractmethod
    def save(self, data: Any, path: P, /, *args: Any, **options: Any) -> None:
        """Store `data` at `path`, whole or not at all.

        Raises
        ------
        PathExistsError
            If something is there already.
        """

    @unsupported
    def delete(self, path: P, /) -> None:
        """Delete a file, a link (itself, also a dangling one) or an empty directory."""
        raise self._unsupported("delete", path)

    @unsupported
    def ensure_directory(self, path: P, /) -> P:
        """Create a directory and its missing ancestors; return its path, or the path object."""
        raise self._unsupported("ensure_directory", path)

    @unsupported
    def create_symlink(self, source: P, link: P, /, *, overwrite: bool = False) -> None:
        """Make `link` a link to `source`, which must exist.

        With `overwrite`, the link replaces a file or another link, but never a directory.
        """
        raise self._unsupported("create_symlink", link)

    @unsupported
    def append(self, values: Any, path: P, /, *args: Any, **options: Any) -> int:
        """Append values to a stored array along its ``axis``; return the index of the first.

        Concurrent appends get separate places. A reader sees all of the values or none.
        """
        raise self._unsupported("append; the zarr backend does", path)

    @unsupported
    def resize(self, path: P, shape: Sequence[int], /, *args: Any, **options: Any) -> None:
        """Change the shape of a stored array: cut it off, or extend it with its fill value."""
        raise self._unsupported("resize; the zarr backend does", path)

    def _unsupported(self, operation: str, path: P) -> UnsupportedOperationError:
        return UnsupportedOperationError(
            f"{type(self).__name__} does not support {operation}",
            path=display(path),
            backend=self._backend_type,
        )

    asave = in_a_thread(save)


class ReadOnlyBackend(BackendBase, DataSource):
    """A backend that can only be read. Subclass it and declare ``_backend_type``."""


class StorageBackend(BackendBase, DataSource, DataSink):
    """A backend that can be read and written. Subclass it and declare ``_backend_type``.

    Examples
    --------
    >>> class Shouting(StorageBackend):
    ...     _backend_type = "shouting"
    ...     def __init__(self): self.texts = {}
    ...     def load(self, path): return self.texts[path]
    ...     def save(self, data, path): self.texts[path] = data.upper()
    ...     def is_file(self, path): return path in self.texts
    ...     def is_dir(self, path): return path == "/"
    ...     def list_dir(self, path): return sorted(self.texts)
    >>> from polystore import BackendRegistry
    >>> backend = BackendRegistry()["shouting"]
    >>> backend.save_batch(["a", "b"], ["x", "y"])
    >>> backend.load_batch(["y", "x"])
    ['B', 'A']
    """

    @accepting("progress")
    def save_batch(
        self, values: Sequence[Any], paths: Sequence[P], /, *args: Any, **options: Any
    ) -> None:
        """Store `values` at `paths`.

        Everything that can be checked is checked before anything is written. If a save fails, the
        error names the paths that were written: in its notes and, if it is a `StorageError`, in
        its attribute ``written``.

        Parameters
        ----------
        values : sequence of object
            The values to store.
        paths : sequence of str or os.PathLike
            A path for each value.
        progress : callable or bool, optional
            Called with the number of values saved so far and the number of all; `True` shows a
            bar.
        *args, **options
            Passed to each `save`.

        Raises
        ------
        VFSTypeError
            If `values` or `paths` is not a sequence of several, such as a single path.
        BatchLengthError
            If the numbers of values and paths differ.
        PathExistsError
            If a path occurs twice or exists already.
        """
        texts = check_batch(values, paths, backend=self._backend_type)
        check_options(type(self), "save_batch", options)
        progress: Progress = options.pop("progress", None)
        with reporting(progress, len(texts), "saving") as step:
            self._save_all(values, paths, step, *args, **options)

    def _save_all(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        step: Callable[..., None],
        *args: Any,
        **options: Any,
    ) -> None:
        """Save the values of a batch; override this to save several at a time."""
        texts = [as_text(path, backend=self._backend_type) for path in paths]
        self._check_batch(texts, **options)
        written: list[str] = []
        with naming_written(written, len(texts), "paths were written"):
            for value, path, text in zip(values, paths, texts, strict=True):
                self.save(value, path, *args, **options)
                written.append(text)
                step()

    def _check_batch(self, paths: list[str], **options: Any) -> None:
        """Raise the errors that a batch to `paths` raises for any values."""
        for path in paths:
            self._check_save(path, **options)

    def _check_save(
        self, path: str, *, overwrite: bool = False, parents: bool = False, **_options: Any
    ) -> None:
        """Raise the errors that a save to `path` raises for any value."""
        if not overwrite and self.exists(path):
            raise path_exists(path, self._backend_type)
        if not parents and isinstance(self, MakesParents):
            check_parent(self, path)

    def delete_all(self, path: P, /) -> None:
        """Delete a file, a link or a whole tree; links are deleted, never followed."""
        found = [as_text(path, backend=self._backend_type)]
        for place in found:  # the list grows during the loop
            if self.is_dir(place) and not self.is_symlink(place):
                found += [child for child, _ in children(self, place)]
        for place in reversed(found):
            self.delete(place)

    def copy(self, source: P, destination: P, /) -> None:
        """Copy a file, a tree, or a link as a link; never overwrite, never create parents.

        The default loads and saves each value. The copy of a tree is not atomic.

        Raises
        ------
        PathNotFoundError
            If the source or the destination's parent is missing.
        PathExistsError
            If the destination exists.
        InvalidPathError
            If the destination is the source or lies inside it.
        """
        src = as_text(source, backend=self._backend_type)
        dst = as_text(destination, backend=self._backend_type)
        check_copy(self, src, dst)
        copy_tree(self, src, dst)

    def move(self, source: P, destination: P, /) -> None:
        """Copy as `copy` does, then delete the source.

        Raises
        ------
        UnsupportedOperationError
            Before anything is copied, if the backend does not support `delete`.
        """
        if not isinstance(self, Deletable):
            raise self._unsupported("delete, which a move needs", source)
        self.copy(source, destination)
        self.delete_all(source)

    asave_batch = in_a_thread(save_batch)
