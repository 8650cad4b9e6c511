"""The error tree.

Every error of polystore is a `StorageError` and, where Python already has a name for the fact,
that as well, so that code written for plain files keeps working::

    StorageError(Exception)
    ├── StorageResolutionError(ValueError)            a path or key could not be resolved
    │   ├── BackendNotFoundError(KeyError)
    │   ├── PathNotFoundError(FileNotFoundError)
    │   ├── PathExistsError(FileExistsError)
    │   │   └── VersionConflictError              the value was replaced in between
    │   ├── PathTypeError                             the path is of the other kind
    │   │   ├── PathIsDirectoryError(IsADirectoryError)
    │   │   └── PathNotDirectoryError(NotADirectoryError)
    │   ├── DirectoryNotEmptyError(IsADirectoryError)
    │   ├── InvalidPathError
    │   │   └── PathMismatchError                     the path has the wrong scheme
    │   └── BatchLengthError
    ├── UnsupportedFormatError(ValueError)
    ├── UnsupportedOperationError(NotImplementedError)
    ├── CorruptDataError(ValueError)
    │   └── ImageLoadError(RuntimeError)
    ├── StorageWriteError(RuntimeError)
    │   ├── ImageSaveError(ValueError)
    │   └── StorageFullError                          the store's limit would be passed
    ├── VFSTypeError(TypeError)
    ├── MissingDependencyError(ImportError)
    └── FileLockError
        └── FileLockTimeoutError(TimeoutError)

All of them pickle, with their attributes and their cause, and read well with `str`.
"""

from __future__ import annotations

import errno
import pickle
from typing import Any, ClassVar, Self

__all__ = [
    "BackendNotFoundError",
    "BatchLengthError",
    "CorruptDataError",
    "DirectoryNotEmptyError",
    "FileLockError",
    "FileLockTimeoutError",
    "ImageLoadError",
    "ImageSaveError",
    "InvalidPathError",
    "MissingDependencyError",
    "PathExistsError",
    "PathIsDirectoryError",
    "PathMismatchError",
    "PathNotDirectoryError",
    "PathNotFoundError",
    "PathTypeError",
    "StorageError",
    "StorageFullError",
    "StorageResolutionError",
    "StorageWriteError",
    "UnsupportedFormatError",
    "UnsupportedOperationError",
    "VFSTypeError",
    "VersionConflictError",
]


class StorageError(Exception):
    """Signal that a storage operation failed; the root of every error of polystore.

    Parameters
    ----------
    message : str
        What is wrong and, where there is one, the cure.
    path : str, optional
        The path the operation was about.
    backend : str, optional
        The key of the backend that met the error.

    Attributes
    ----------
    message, path, backend
        The arguments, unchanged.
    written : tuple of str
        After a batch that failed midway: the paths that were written.

    Examples
    --------
    >>> str(PathNotFoundError("no such file", path="/a.npy", backend="memory"))
    "no such file: '/a.npy' (backend memory)"
    """

    # Fills `OSError.errno` of the subclasses that are an OSError.
    _errno: ClassVar[int | None] = None
    written: tuple[str, ...] = ()

    def __init__(
        self, message: str, *, path: str | None = None, backend: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.backend = backend
        if isinstance(self, OSError):
            self._fill_os_error()

    def _fill_os_error(self) -> None:
        """Set what handlers of an OSError look at."""
        self.errno: int | None = self._errno
        self.strerror: str | None = self.message
        self.filename: str | None = self.path

    def __str__(self) -> str:
        text = self.message
        if self.path is not None:
            text += f": {self.path!r}"
        if self.backend is not None:
            text += f" (backend {self.backend})"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        if self.__cause__ is not None:
            state["__cause__"] = portable(self.__cause__)
        return _rebuild, (type(self), self.message, self.path, self.backend), state

    def located(self, *, path: str | None = None, backend: str | None = None) -> Self:
        """Fill in the path and the backend where the place that raised knew neither."""
        if self.path is None and path is not None:
            self.path = path
            if isinstance(self, OSError):
                self._fill_os_error()
        if self.backend is None:
            self.backend = backend
        return self


def _rebuild(
    cls: type[StorageError], message: str, path: str | None, backend: str | None
) -> StorageError:
    # Not by calling the class: a subclass may have an __init__ of other parameters.
    base = OSError if issubclass(cls, OSError) else Exception
    error: StorageError = base.__new__(cls, message)
    StorageError.__init__(error, message, path=path, backend=backend)
    return error


def portable(error: BaseException) -> BaseException:
    """Return `error`, or its text in a RuntimeError where it would not survive a pickle."""
    import cloudpickle  # an eighth of the time that importing polystore would take

    try:
        pickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001 - a foreign exception may fail to pickle in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def missing_dependency(
    what: str, error: ImportError, extra: str, *, backend: str | None = None
) -> MissingDependencyError:
    """Return the error for what could not be imported, with the extra that brings it."""
    package = f"the package {error.name!r}" if error.name else "a package"
    return MissingDependencyError(
        f"{what} needs {package}, which could not be imported ({error}): "
        f"pip install 'polystore-ray[{extra}]'",
        backend=backend,
    )


class StorageResolutionError(StorageError, ValueError):
    """Signal that a path or a key could not be resolved."""


class BackendNotFoundError(StorageResolutionError, KeyError):
    """Signal that no usable backend has this key."""


class PathNotFoundError(StorageResolutionError, FileNotFoundError):
    """Signal that a path does not exist."""

    _errno = errno.ENOENT


class PathExistsError(StorageResolutionError, FileExistsError):
    """Signal that a path exists already and would have been destroyed."""

    _errno = errno.EEXIST


class VersionConflictError(PathExistsError):
    """Signal that a value that was to be replaced has another version by now."""


class PathTypeError(StorageResolutionError):
    """Signal that a path is of the other kind than the operation needs."""


class PathIsDirectoryError(PathTypeError, IsADirectoryError):
    """Signal that a file was needed where there is a directory."""

    _errno = errno.EISDIR


class PathNotDirectoryError(PathTypeError, NotADirectoryError):
    """Signal that a directory was needed where there is a file."""

    _errno = errno.ENOTDIR


class DirectoryNotEmptyError(StorageResolutionError, IsADirectoryError):
    """Signal that a directory that still has entries was to be deleted."""

    _errno = errno.ENOTEMPTY


class InvalidPathError(StorageResolutionError):
    """Signal that a path is not one: empty, above the root, or with a NUL in it."""


class PathMismatchError(InvalidPathError):
    """Signal that a path has the scheme of another kind of store."""


class BatchLengthError(StorageResolutionError):
    """Signal that a batch has not as many values as paths."""


class UnsupportedFormatError(StorageError, ValueError):
    """Signal that nothing is known to read or write this suffix or this kind of value."""


class UnsupportedOperationError(StorageError, NotImplementedError):
    """Signal that this backend does not offer this operation."""


class CorruptDataError(StorageError, ValueError):
    """Signal that stored bytes are damaged and cannot be decoded."""


class ImageLoadError(CorruptDataError, RuntimeError):
    """Signal that a stored image cannot be decoded."""


class StorageWriteError(StorageError, RuntimeError):
    """Signal that a value could not be written; what was there before is unchanged."""


class ImageSaveError(StorageWriteError, ValueError):
    """Signal that a value cannot be written as an image."""


class StorageFullError(StorageWriteError):
    """Signal that a value would take a store beyond what it may hold."""

    _errno = errno.ENOSPC


class VFSTypeError(StorageError, TypeError):
    """Signal that an argument has the wrong type."""


class MissingDependencyError(StorageError, ImportError):
    """Signal that an optional package is missing; the message names the extra that brings it."""


class FileLockError(StorageError):
    """Signal that a lock file could not be used."""


class FileLockTimeoutError(FileLockError, TimeoutError):
    """Signal that a lock was not free in time."""

    _errno = errno.ETIMEDOUT
