"""Errors as they leave: with path and backend, and those of the operating system as ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from polystore.exceptions import (
    DirectoryNotEmptyError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    StorageWriteError,
)
from polystore.paths import P, display

__all__ = ["located", "missing_below_files", "nothing_there", "os_errors"]

_MEANING: dict[int, tuple[type[StorageError], str]] = {
    errno.ENOENT: (PathNotFoundError, "no such file or directory"),
    errno.EEXIST: (PathExistsError, "the path exists already"),
    errno.ENOTEMPTY: (
        DirectoryNotEmptyError,
        "the directory is not empty; delete_all takes a tree",
    ),
    errno.EISDIR: (PathIsDirectoryError, "the path is a directory"),
    errno.ENOTDIR: (PathNotDirectoryError, "a part of the path is a file"),
    errno.ELOOP: (StorageResolutionError, "links lead in a circle"),
    errno.ENAMETOOLONG: (InvalidPathError, "the path is too long for the file system"),
}
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES)


@contextmanager
def located(path: P | None, backend: str | None) -> Iterator[None]:
    """Add path and backend to errors that were raised without."""
    try:
        yield
    except StorageError as error:
        error.located(path=None if path is None else display(path), backend=backend)
        raise


@contextmanager
def os_errors(
    path: P, backend: str | None, *, refused: type[StorageError] = StorageWriteError
) -> Iterator[None]:
    """Let errors of the operating system out as ours, with path, backend and cause.

    What has no name of its own, such as a full disk or a lack of permission, is `refused`.
    """
    try:
        yield
    except StorageError as error:
        error.located(path=display(path), backend=backend)
        raise
    except OSError as error:
        kind, meaning = _MEANING.get(
            error.errno or 0, (refused, f"the file system refused: {error.strerror or error}")
        )
        raise kind(meaning, path=display(path), backend=backend) from error


@contextmanager
def missing_below_files() -> Iterator[None]:
    """Let a path that leads through a file be a missing one."""
    try:
        yield
    except NotADirectoryError as error:
        if isinstance(error, StorageError):
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error


@contextmanager
def nothing_there() -> Iterator[None]:
    """End the block where a path leads to nothing, or to what nobody may look at."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError) or error.errno not in _NOTHING_THERE:
            raise
