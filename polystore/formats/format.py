"""The description of one kind of file, and the errors for damaged files and unfit values."""

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
        What messages call it.
    suffixes : tuple of str
        With their dot, in lower case, such as ``(".tif", ".ome.tif")``.
    write : callable
        ``write(file, value)``: write the whole of a file that is open for bytes.
    read : callable
        ``read(path)``: return the value in a file.
    read_region : callable, optional
        ``read_region(path, index)``: return the part of an array that a tuple of integers,
        slices and ``...`` selects, without reading the rest where that can be.
    describe : callable, optional
        ``describe(path)``: return ``{"shape": ..., "dtype": ...}`` from the header alone.
    compressed : bool, default False
        Whether decoding is work worth a thread of its own, when a batch is loaded.
    corrupt : type, default CorruptDataError
        The error for a damaged file.
    unwritable : type, default UnsupportedFormatError
        The error for a value the format cannot hold.
    options : frozenset of str, optional
        Names of keyword arguments that `read` and `read_region` take, and so ``load``.
    rewrite : callable, optional
        ``rewrite(path, file, index, data)``: write to `file` what the file at `path` holds, with
        the part that `index` selects replaced. Without it, the array is loaded and saved.
    kept_apart : callable, optional
        ``kept_apart(path)``: name what a file holds that `read` does not return, such as a scale.
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
            If a part is asked of no array, or one that the array does not have, or the format
            has no such option.
        CorruptDataError
            Or the format's own error for a damaged file, with its cause.
        MemoryError
            If a large file needs more memory than there is. A small file that does is damaged.
        """
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
        """Return what `describe` tells, nothing for a format without; errors as of `load`."""
        with self.decoding(path):
            return {} if self.describe is None else self.describe(path)

    @contextmanager
    def decoding(self, path: str | None = None) -> Iterator[None]:
        """Raise the format's `corrupt` error for what says that a file is damaged."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError):
                damaged = path is not None and os.stat(path).st_size < ANY_FILE
            else:
                # The system's own errors have a number; a seek to where a damaged file says too.
                damaged = not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)
            if not damaged:
                raise
            raise self.corrupt(
                f"the file cannot be decoded as {self.name} ({type(error).__name__}: {error})"
            ) from error

    def save_region(self, path: str, file: IO[bytes], index: tuple[Any, ...], data: Any) -> None:
        """Write what a file holds to another, with a part of the array replaced.

        Raises
        ------
        StorageError
            As of `load`, of `put_region` and of `save`; also if something would be lost.
        """
        if self.rewrite is None:
            array = self.load(path)
            put_region(array, index, data)
            self.save(file, array)
            return
        with self.decoding(path):
            self.rewrite(path, file, index, data)

    def apart(self, path: str) -> list[str]:
        """Return the names of what a file holds beside the value that `load` returns."""
        if self.kept_apart is None:
            return []
        with self.decoding(path):
            return self.kept_apart(path)

    def save(self, file: IO[bytes], value: Any) -> None:
        """Write a value, or raise the format's `unwritable` error with its cause."""
        try:
            self.write(file, value)
        except (StorageError, OSError, MemoryError):
            raise
        except Exception as error:
            raise self.unwritable(
                f"a {type(value).__name__} cannot be written as {self.name}: {error}"
            ) from error
