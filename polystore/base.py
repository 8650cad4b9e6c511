"""The contracts that a backend fulfils: reading, writing, and both."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np

from polystore.arguments import check_batch, check_collection, path_exists
from polystore.async_methods import AsyncLoads, AsyncSaves
from polystore.error_translation import located
from polystore.exceptions import (
    InvalidPathError,
    PathNotFoundError,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
)
from polystore.paths import NameFilter, P, as_text, display, file_order
from polystore.progress import Progress, reporting
from polystore.registration import BackendBase
from polystore.transfer.copying import RAW, Pairs, copy_values, naming_written, save_rows
from polystore.transfer.stacking import Rows, stack

__all__ = ["DataSink", "DataSource", "ReadOnlyBackend", "StorageBackend", "accepts"]


class DataSource(AsyncLoads, ABC):
    """The reading half of a backend.

    Four methods are abstract; every other has a default built on them, correct for any
    backend and to be overridden for speed. Parameter names are free to implementers, since
    callers pass paths positionally.
    """

    _backend_type: ClassVar[str | None] = None

    directory_format: ClassVar[str | None] = None
    """The format of directories, for backends whose directories have metadata that copies keep.

    Such a backend implements ``load(path, suffix=".bin")`` for directories too, and its `save`
    takes what that returns.
    """

    @abstractmethod
    def load(self, path: P, /, *args: Any, **options: Any) -> Any:
        """Return the value at `path`, which is the caller's own but for arrays.

        Backends that keep values in memory return arrays, also those in dicts, lists and tuples,
        as read-only views; every other value is fresh and can be changed in place. The backends of
        polystore, and `FileManager.load` for any backend, take ``writable=True``: arrays are then
        private copies that can be changed in place.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathTypeError
            If it is a directory.
        """

    @abstractmethod
    def is_file(self, path: P, /) -> bool:
        """Tell whether `path` leads, also through links, to a value."""

    @abstractmethod
    def is_dir(self, path: P, /) -> bool:
        """Tell whether `path` leads, also through links, to a directory."""

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
        """Tell whether `path` leads to anything; a dangling link does not."""
        return self.is_file(path) or self.is_dir(path)

    def is_symlink(self, path: P, /) -> bool:
        """Tell whether `path` itself is a link."""
        return False

    def load_batch(self, paths: Sequence[P], /, *args: Any, **options: Any) -> list[Any]:
        """Return the values at `paths`, in their order; by default one load after another.

        Parameters
        ----------
        paths : sequence of str or os.PathLike
            Files.
        progress : callable or bool, optional
            Called with the numbers of values that are done and of all; `True` shows a bar.
        *args, **options
            For each `load`.
        """
        check_collection(paths, "paths", backend=self._backend_type)
        values: list[Any] = []
        with reporting(options.pop("progress", None), len(paths), "loading") as step:
            for path in paths:
                values.append(self.load(path, *args, **options))
                step()
        return values

    def load_each(self, paths: Sequence[P], /) -> Iterator[Any]:
        """Give the values at `paths` one after another, each loaded when it is asked for."""
        for path in paths:
            yield self.load(path)

    def walk(self, path: P, /, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        """Return the directories at and below a directory, the files, and what is neither.

        Parameters
        ----------
        path : str or os.PathLike
            A directory; it is the first of the directories.
        recursive : bool, default True
            Whether to descend into directories. Links to directories are listed with these, and
            not descended.

        Returns
        -------
        directories, files, others : list of str
            Each path once, in no order. Neither are links that lead nowhere, and what no format
            reads.
        """
        top = as_text(path, backend=self._backend_type).rstrip("/") or "/"
        directories, waiting = [top], [top]
        files: list[str] = []
        others: list[str] = []
        while waiting:
            directory = waiting.pop()
            for name in self.list_dir(directory):
                child = f"{directory.rstrip('/')}/{name}"
                if self.is_dir(child):
                    directories.append(child)
                    if recursive and not self.is_symlink(child):
                        waiting.append(child)
                else:
                    (files if self.is_file(child) else others).append(child)
        return directories, files, others

    def _walk_beside_files(
        self, path: P, recursive: bool
    ) -> tuple[list[str], list[str], list[str]]:
        """Walk where files can be listed at once, which spares asking what each of them is."""
        top = as_text(path, backend=self._backend_type).rstrip("/") or "/"
        files = set(self.list_files(top, recursive=recursive))
        directories, waiting = [top], [top]
        others: list[str] = []
        while waiting:
            directory = waiting.pop()
            for name in self.list_dir(directory):
                child = f"{directory.rstrip('/')}/{name}"
                if child in files:
                    continue
                if self.is_dir(child):
                    directories.append(child)
                    if recursive and not self.is_symlink(child):
                        waiting.append(child)
                elif self.is_file(child):
                    files.add(child)  # it came meanwhile
                else:
                    others.append(child)
        return directories, list(files), others

    def copy_to(
        self, other: StorageBackend, pairs: Pairs, /, *, progress: Progress = None, **options: Any
    ) -> None:
        """Copy values into another backend; no more of them at a time than memory holds.

        Parameters
        ----------
        other : StorageBackend
            The other backend.
        pairs : sequence of (str, str)
            The paths of values, and those that their copies get.
        progress : callable or bool, optional
            Called with the numbers of values that are copied and of all; `True` shows a bar.
        **options
            For the ``save_batch`` of the other backend.

        Raises
        ------
        Exception
            What either backend raises. It names what was written.

        Notes
        -----
        Where both backends keep a value in a file of one format, its bytes are copied.
        """
        as_bytes, converted = self._split_by_format(other, pairs)
        if not as_bytes:
            values = self.load_each([source for source, _ in pairs])
            copy_values(values, pairs, other.save_batch, progress, **options)
            return
        done: list[str] = []
        with (
            naming_written(done, len(pairs)) if converted else nullcontext(),
            reporting(progress, len(pairs), "copying") as step,
        ):
            files = (self.load(source, suffix=RAW) for source, _ in as_bytes)
            advance = _advancing(step)
            copy_values(files, as_bytes, other.save_batch, advance, suffix=RAW, **options)
            done += [target for _, target in as_bytes]
            if converted:
                values = self.load_each([source for source, _ in converted])
                advance = _advancing(step)
                copy_values(values, converted, other.save_batch, advance, **options)

    def copy_directories_to(self, other: StorageBackend, pairs: Pairs, /) -> None:
        """Create directories in another backend; parents come before their children."""
        here, there = self.kept_by().directory_format, other.kept_by().directory_format
        if here is not None and here == there:
            for source, target in pairs:
                other.save(self.load(source, suffix=RAW), target)
            return
        above = {target.rpartition("/")[0] for _, target in pairs}
        for _, target in pairs:
            if target not in above:  # with each, those above it are made
                other.ensure_directory(target)

    def converted(self, other: StorageBackend, pairs: Pairs, /) -> list[str]:
        """Return the paths of values that `copy_to` would load and save, not copy as bytes."""
        return [source for source, _ in self._split_by_format(other, pairs)[1]]

    def _split_by_format(
        self, other: StorageBackend, pairs: Pairs
    ) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the pairs that are files of one format in both backends, and the others."""
        split: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
        here, there = self.kept_by(), other.kept_by()
        for source, target in pairs:
            kind = here.file_format(source)
            split[kind is None or kind != there.file_format(target)].append((source, target))
        return split

    def kept_by(self) -> type[DataSource]:
        """Return the class that reads and writes the values, in whatever process it does."""
        return type(self)

    @classmethod
    def file_format(cls, path: str, /) -> str | None:
        """Return the name of the format of the file at a path, None if a value is no such file.

        A backend that returns one has ``load(path, suffix=".bin")`` and
        ``save(data, path, suffix=".bin")`` for the bytes of the file, or for what else it keeps.
        """
        return None

    def check_convertible(self, paths: Sequence[P], /) -> None:
        """Raise if files hold more than `load` returns, which other backends could not keep.

        Raises
        ------
        UnsupportedOperationError
            With the names of what would be lost.
        """

    def stack_to(
        self,
        other: StorageBackend,
        paths: Sequence[P],
        path: P,
        /,
        *,
        progress: Progress = None,
        **options: Any,
    ) -> None:
        """Stack arrays along a new first axis into one array of another backend.

        The new array exists only once it is whole.

        Parameters
        ----------
        other : StorageBackend
            The other backend, whose arrays have regions and can be resized.
        paths : sequence of str or os.PathLike
            Arrays of one shape and dtype, of which there is one at least.
        path : str or os.PathLike
            Where the new array goes; nothing is there yet.
        progress : callable or bool, optional
            Called with the numbers of arrays that are stacked and of all; `True` shows a bar.
        **options
            For the ``save`` of the other backend, such as ``chunks=`` and ``shards=``. By default a
            chunk has about 1 MiB, which are several rows, one, or a part of one.

        Raises
        ------
        PathExistsError
            If the path exists.
        UnsupportedFormatError
            If the values are not arrays of one shape and dtype.
        """
        texts = [as_text(each, backend=self._backend_type) for each in paths]
        if not texts:
            raise VFSTypeError("there is nothing to stack", backend=self._backend_type)
        other.check_resizable(path)
        fill = partial(self._save_stack_to, other)
        where = other.portable(path)
        stack(texts, where, self._like(texts[0]), other, fill, progress, **options)

    def _save_stack_to(
        self, other: StorageBackend, parts: Sequence[Rows], done: Callable[[Rows], None]
    ) -> None:
        for rows in parts:
            self.save_rows_to(other, rows)
            done(rows)

    def save_rows_to(self, other: StorageBackend, rows: Rows, /) -> None:
        """Save arrays as rows of one that is stored in another backend."""
        with located(None, self._backend_type):
            save_rows(self.load_each(rows.paths), rows, other.save)

    def _like(self, path: str) -> tuple[tuple[int, ...], str]:
        """Return the shape and the dtype of a stored array."""
        facts = self.stat(path)
        if "dtype" not in facts:
            value = self.load(path)
            if not isinstance(value, np.ndarray):
                raise UnsupportedFormatError(
                    f"only arrays can be stacked, and this is a {type(value).__name__}",
                    path=path,
                    backend=self._backend_type,
                )
            facts = {"shape": value.shape, "dtype": value.dtype}
        return tuple(facts["shape"]), str(facts["dtype"])

    def list_files(
        self,
        path: P,
        /,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        """Return the paths of the files in a directory, shallow first, then in plain order.

        Links to directories are not descended. The default asks `list_dir` once for each
        directory and `is_dir` or `is_file` once for each name.

        Parameters
        ----------
        path : str or os.PathLike
            A directory.
        pattern : str, optional
            A glob on the base name; case matters.
        extensions : iterable of str, optional
            Endings with their dot; case does not matter. Where both are given, both must hold.
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
        found: list[str] = []
        waiting = [as_text(path, backend=self._backend_type)]
        while waiting:
            directory = waiting.pop()
            for name in self.list_dir(directory):
                child = f"{directory.rstrip('/')}/{name}"
                if self.is_dir(child):
                    if recursive and not self.is_symlink(child):
                        waiting.append(child)
                elif selected(name) and self.is_file(child):
                    found.append(child)
        return sorted(found, key=file_order)

    def stat(self, path: P, /) -> dict[str, Any]:
        """Describe `path`; a missing one is described too, not an error.

        Returns
        -------
        dict
            ``type`` ("file", "directory", "symlink" or "missing"), ``path``, ``exists``, and
            where they apply ``target``, ``size`` in bytes, ``modified`` in seconds since the
            epoch, ``shape``, ``dtype`` and ``version``.
        """
        text = as_text(path, backend=self._backend_type)
        exists = self.exists(path)
        if self.is_symlink(path):
            kind = "symlink"
        elif not exists:
            kind = "missing"
        else:
            kind = "directory" if self.is_dir(path) else "file"
        return {"type": kind, "path": text, "exists": exists}


class DataSink(AsyncSaves, ABC):
    """The writing half of a backend: `save` is abstract, the rest is optional or derived."""

    _backend_type: ClassVar[str | None] = None

    @abstractmethod
    def save(self, data: Any, path: P, /, *args: Any, **options: Any) -> None:
        """Store `data` at `path`, whole or not at all.

        Raises
        ------
        PathExistsError
            If something is there already.
        """

    def delete(self, path: P, /) -> None:
        """Delete a file, a link (itself, also a dangling one) or an empty directory."""
        raise self._unsupported("delete", path)

    def ensure_directory(self, path: P, /) -> str:
        """Make a directory and its ancestors where they are missing; return its path."""
        raise self._unsupported("ensure_directory", path)

    def create_symlink(self, source: P, link: P, /, *, overwrite: bool = False) -> None:
        """Make `link` a link to `source`, which has to exist."""
        raise self._unsupported("create_symlink", link)

    def append(self, values: Any, path: P, /, *args: Any, **options: Any) -> int:
        """Put values at the end of a stored array's ``axis``; return where along it they begin.

        Of several that append at once, each gets a place of its own; a reader sees all of the
        values or none.
        """
        raise self._unsupported("append", path)

    def resize(self, path: P, shape: Sequence[int], /, *args: Any, **options: Any) -> None:
        """Give a stored array another shape: cut it off, or fill it up with its fill value."""
        raise self._unsupported("resize", path)

    def check_resizable(self, path: P, /) -> None:
        """Raise `UnsupportedOperationError` if arrays of the backend keep their shapes."""
        if type(self).resize is DataSink.resize:
            raise self._unsupported("resize", path)

    def _unsupported(self, operation: str, path: P) -> UnsupportedOperationError:
        return UnsupportedOperationError(
            f"{type(self).__name__} does not support {operation}",
            path=display(path),
            backend=self._backend_type,
        )


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

    def save_batch(
        self,
        values: Sequence[Any],
        paths: Sequence[P],
        /,
        *args: Any,
        **options: Any,
    ) -> None:
        """Store `values` at `paths`; by default one save after another.

        Everything that can be known beforehand is checked before anything is written. A
        failure midway carries the paths that were written in its notes and, where it is a
        `StorageError`, in its attribute ``written``.

        Parameters
        ----------
        values : sequence of object
            What to store.
        paths : sequence of str or os.PathLike
            Where, one for each value.
        progress : callable or bool, optional
            Called with the numbers of values that are done and of all; `True` shows a bar.
        *args, **options
            For each `save`.

        Raises
        ------
        BatchLengthError
            If there are not as many values as paths.
        PathExistsError
            If a path occurs twice or exists already.
        """
        progress = options.pop("progress", None)
        texts = check_batch(values, paths, backend=self._backend_type)
        self._check_batch(texts, **options)
        written: list[str] = []
        with (
            naming_written(written, len(texts), "paths were written"),
            reporting(progress, len(texts), "saving") as step,
        ):
            for value, path, text in zip(values, paths, texts, strict=True):
                self.save(value, path, *args, **options)
                written.append(text)
                step()

    def copy_from(
        self, source: DataSource, pairs: Pairs, /, *, progress: Progress = None, **options: Any
    ) -> None:
        """Copy values from another backend, as its `DataSource.copy_to` does, but here."""
        values = source.load_each([origin for origin, _ in pairs])
        copy_values(values, pairs, self.save_batch, progress, **options)

    def _check_batch(self, paths: list[str], **options: Any) -> None:
        """Raise what a batch to `paths` would raise whatever the values."""
        for path in paths:
            self._check_save(path, **options)

    def _check_save(
        self, path: str, *, overwrite: bool = False, parents: bool = False, **_options: Any
    ) -> None:
        """Raise what a save to `path` would raise whatever the value."""
        if not overwrite and self.exists(path):
            raise path_exists(path, self._backend_type)
        if not parents and accepts(type(self), "save", "parents"):
            self._check_parent(path)

    def _check_parent(self, path: str) -> None:
        if type(self).ensure_directory is DataSink.ensure_directory:
            return  # what makes no directories has none that could be missing
        parent = path.rstrip("/").rpartition("/")[0]
        if parent and not self.exists(parent):
            raise PathNotFoundError(
                "the parent directory is missing", path=path, backend=self._backend_type
            )

    def delete_all(self, path: P, /) -> None:
        """Delete a file, a link or a whole tree; links are deleted, never followed."""
        top = as_text(path, backend=self._backend_type)
        found = [top]
        for place in found:  # which grows meanwhile
            if self.is_dir(place) and not self.is_symlink(place):
                found += [f"{place.rstrip('/')}/{name}" for name in self.list_dir(place)]
        for place in reversed(found):
            self.delete(place)

    def copy(self, source: P, destination: P, /) -> None:
        """Copy a file, a tree or a link as a link; never overwrite, never make parents.

        The default loads and saves each value. It is not atomic for a tree.

        Raises
        ------
        PathNotFoundError
            If the source or the destination's parent is missing.
        PathExistsError
            If the destination exists.
        InvalidPathError
            If the destination is the source or lies in it.
        """
        src = as_text(source, backend=self._backend_type)
        dst = as_text(destination, backend=self._backend_type)
        self._check_transfer(src, dst)
        self._copy_tree(src, dst)

    def move(self, source: P, destination: P, /) -> None:
        """Move as `copy` copies, and delete the source; by default in these two steps.

        Raises
        ------
        UnsupportedOperationError
            Before anything is copied, if the backend does not support `delete`.
        """
        if type(self).delete is DataSink.delete:
            raise self._unsupported("delete, without which there is no move", source)
        self.copy(source, destination)
        self.delete_all(source)

    def _check_transfer(self, src: str, dst: str) -> None:
        if not self.exists(src) and not self.is_symlink(src):
            raise PathNotFoundError(
                "no such file or directory", path=src, backend=self._backend_type
            )
        if self.exists(dst) or self.is_symlink(dst):
            raise path_exists(dst, self._backend_type)
        self._check_parent(dst)
        if dst.startswith(src.rstrip("/") + "/") and not self.is_symlink(src):
            raise InvalidPathError(
                f"a directory cannot go into itself ({src!r})", path=dst, backend=self._backend_type
            )

    def _copy_tree(self, src: str, dst: str) -> None:
        waiting = [(src, dst)]
        while waiting:
            old, new = waiting.pop()
            if self.is_symlink(old):
                self.create_symlink(self.stat(old)["target"], new)
            elif self.is_dir(old):
                self.ensure_directory(new)
                top, place = old.rstrip("/"), new.rstrip("/")
                waiting += [(f"{top}/{name}", f"{place}/{name}") for name in self.list_dir(old)]
            else:
                self.save(self.load(old), new)


def _advancing(step: Callable[[int], None]) -> Callable[[int, int], None]:
    """Return a progress of a part, that advances the progress of the whole."""
    before = 0

    def advance(done: int, _total: int) -> None:
        nonlocal before
        step(done - before)
        before = done

    return advance


@lru_cache(maxsize=256)
def accepts(cls: type, method: str, keyword: str) -> bool:
    """Tell whether a method of a backend's class takes this keyword, as not every one need."""
    function = getattr(cls, method, None)
    if function in (DataSource.load_batch, StorageBackend.save_batch):
        return keyword == "progress"
    return function is not None and keyword in inspect.signature(function).parameters
