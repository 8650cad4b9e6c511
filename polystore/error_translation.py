"""Complete errors before they leave: translate OSError; add path, backend and written paths."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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

__all__ = ["located", "missing_below_files", "naming_written", "nothing_there", "os_errors"]

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


class located:  # noqa: N801 - used as a function; a generator takes thrice the time
    """Add path and backend to errors that were raised without."""

    __slots__ = ("_backend", "_path")

    def __init__(self, path: P | None, backend: str | None) -> None:
        self._path, self._backend = path, backend

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, StorageError):
            path = None if self._path is None else display(self._path)
            error.located(path=path, backend=self._backend)


@contextmanager
def naming_written(
    written: list[str], number: int, done: str = "values were copied"
) -> Iterator[None]:
    """Add the paths that were written to an error; its own attribute ``written`` is kept."""
    try:
        yield
    except Exception as error:
        before: tuple[str, ...] = getattr(error, "written", ())
        written = list(dict.fromkeys((*written, *before)))
        with suppress(AttributeError):  # of a class with slots
            error.written = tuple(written)  # type: ignore[attr-defined]
        if number > 1:
            error.add_note(f"{len(written)} of {number} {done}: {written}")
        raise


class os_errors:  # noqa: N801 - as `located`
    """Let errors of the operating system out as ours, with path, backend and cause.

    What has no name of its own, such as a full disk or a lack of permission, is `refused`.
    """

    __slots__ = ("_backend", "_path", "_refused")

    def __init__(
        self, path: P, backend: str | None, *, refused: type[StorageError] = StorageWriteError
    ) -> None:
        self._path, self._backend, self._refused = path, backend, refused

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        if isinstance(error, StorageError):
            error.located(path=display(self._path), backend=self._backend)
        elif isinstance(error, OSError):
            path = display(self._path)
            if error.errno in _MEANING:
                kind, meaning = _MEANING[error.errno]
                # The cause would say the same.
                raise kind(meaning, path=path, backend=self._backend) from None
            refused = f"the file system refused: {error.strerror or error}"
            raise self._refused(refused, path=path, backend=self._backend) from error


class missing_below_files:  # noqa: N801 - as `located`
    """Let a path that leads through a file be a missing one."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, NotADirectoryError) and not isinstance(error, StorageError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error


class nothing_there:  # noqa: N801 - as `located`
    """End the block where a path leads to nothing, or to what nobody may look at."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> bool:
        return (
            isinstance(error, OSError)
            and not isinstance(error, StorageError)
            and error.errno in _NOTHING_THERE
        )
