"""The class `Format`: how one kind of file is read and written, and its errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from polystore.exceptions import (
    CorruptDataError,
    StorageError,
    UnsupportedFormatError,
    VFSTypeError,
)
from polystore.formats.limits import ANY_FILE
from polystore.region import put_region, take_region

__all__ = ["Format"]


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of file is read and written.

    Parameters
    ----------
    name : str
        The name in messages.
    suffixes : tuple of str
        The suffixes with their dot, in lower case, such as ``(".tif", ".ome.tif")``.
    write : callable
        ``write(file, value)``: write a whole file, which is open for bytes and may be write-only.
        It raises for a value that `read` could not return unchanged.
    read : callable
        ``read(path)``: return the value in a file. It never runs code from the file.
    read_region : callable, optional
        ``read_region(path, index)``: return the part of an array that a tuple of integers,
        slices and ``...`` selects, without reading the rest. By default, the whole array is read.
    describe : callable, optional
        ``describe(path)``: return ``{"shape": ..., "dtype": ...}`` from the header alone.
    compressed : bool, default False
        Whether decoding is slow enough that a batch should be loaded in several threads.
    corrupt : type, default CorruptDataError
        The error for a damaged file.
    unwritable : type, default UnsupportedFormatError
        The error for a value that the format cannot hold.
    options : frozenset of str, optional
        Names of keyword arguments of `read` and `read_region`, which ``load`` passes on.
    rewrite : callable, optional
        ``rewrite(path, file, index, data)``: write the content of the file at `path` to `file`,
        with the part that `index` selects replaced. By default, the array is loaded and saved.
    kept_apart : callable, optional
        ``kept_apart(path)``: return the names of content that `read` does not return, such as a
        scale.
    """

    name: str
    suffixes: tuple[str, ...]
    write: Callable[[IO[bytes], Any], None]
    read: Callable[..., Any]
    read_region: Callable[..., Any] | None = None
    describe: Callable[[str], dict[str, Any]] | None = None
    compressed: bool = False
    corrupt: type[StorageError] = CorruptDataError
    unwritable: type[StorageError] = UnsupportedFormatError
    options: frozenset[str] = frozenset()
    rewrite: Callable[[str, IO[bytes], tuple[Any, ...], Any], None] | None = None
    kept_apart: Callable[[str], list[str]] | None = None

    def load(self, path: str, index: tuple[Any, ...] | None = None, **options: Any) -> Any:
        """Return the value in a file, or the part of an array that `index` selects.

        Raises
        ------
        UnsupportedOperationError, VFSTypeError
            If the value is not an array, the index does not fit it, or the format has no such
            option.
        CorruptDataError
            If the file is damaged; or the format's own error for this.
        MemoryError
            If a large file needs more memory than is free. A small file that does is damaged.
        """
        options = {name: value for name, value in options.items() if value is not None}
        for option in sorted(options.keys() - self.options):
            known = f"it has {', '.join(sorted(self.options))}" if self.options else "it has none"
            raise VFSTypeError(f"{self.name} has no option {option!r} for load; {known}")
        with self.decoding(path):
            if index is None:
                return self.read(path, **options)
            if self.read_region is None:
                return take_region(self.read(path, **options), index)
            return self.read_region(path, index, **options)

    def header(self, path: str) -> dict[str, Any]:
        """Return the result of `describe`; {} for a format without it. Errors as for `load`."""
        with self.decoding(path):
            return {} if self.describe is None else self.describe(path)

    @contextmanager
    def decoding(self, path: str | None = None) -> Iterator[None]:
        """Translate errors that mean a damaged file to the format's `corrupt` error."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError):
                damaged = path is not None and os.stat(path).st_size < ANY_FILE
            else:
                # An error of the system has a number; EINVAL comes from a seek to a damaged offset.
                damaged = not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)
            if not damaged:
                raise
            raise self.corrupt(
                f"the file cannot be decoded as {self.name} ({type(error).__name__}: {error})"
            ) from error

    def save_region(self, path: str, file: IO[bytes], index: tuple[Any, ...], data: Any) -> None:
        """Write the content of a file to another file, with a part of the array replaced.

        Raises
        ------
        StorageError
            As for `load`, `put_region` and `save`; also if other content would be lost.
        """
        if self.rewrite is None:
            array = self.load(path)
            put_region(array, index, data)
            self.save(file, array)
            return
        with self.decoding(path):
            self.rewrite(path, file, index, data)

    def apart(self, path: str) -> list[str]:
        """Return the names of a file's content that `load` does not return."""
        if self.kept_apart is None:
            return []
        with self.decoding(path):
            return self.kept_apart(path)

    def save(self, file: IO[bytes], value: Any) -> None:
        """Write a value; translate errors to the format's `unwritable` error."""
        try:
            self.write(file, value)
        except (StorageError, OSError, MemoryError):
            raise
        except Exception as error:
            raise self.unwritable(
                f"a {type(value).__name__} cannot be written as {self.name}: {error}"
            ) from error
