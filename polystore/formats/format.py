"""The description of one kind of file, and the errors for damaged files and unfit values."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from polystore.exceptions import CorruptDataError, StorageError, UnsupportedFormatError
from polystore.formats.limits import ANY_FILE
from polystore.region import take_region

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
    """

    name: str
    suffixes: tuple[str, ...]
    write: Callable[[IO[bytes], Any], None]
    read: Callable[[str], Any]
    read_region: Callable[[str, tuple[Any, ...]], Any] | None = None
    describe: Callable[[str], dict[str, Any]] | None = None
    compressed: bool = False
    corrupt: type[StorageError] = CorruptDataError
    unwritable: type[StorageError] = UnsupportedFormatError

    def load(self, path: str, index: tuple[Any, ...] | None = None) -> Any:
        """Return the value in a file, or the part of an array that `index` selects.

        Raises
        ------
        UnsupportedOperationError, VFSTypeError
            If a part is asked of no array, or one that the array does not have.
        CorruptDataError
            Or the format's own error for a damaged file, with its cause.
        MemoryError
            If a large file needs more memory than there is. A small file that does is damaged.
        """
        with self.decoding(path):
            if index is None:
                return self.read(path)
            if self.read_region is None:
                return take_region(self.read(path), index)
            return self.read_region(path, index)

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
