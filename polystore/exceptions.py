"""The error tree.

Every error of polystore is a `StorageError`. Where Python has a built-in error for the same
problem, it is that as well, so that code written for plain files keeps working::

    StorageError(Exception)
    ├── StorageResolutionError(ValueError)            a path or key could not be resolved
    │   ├── BackendNotFoundError(KeyError)
    │   ├── PathNotFoundError(FileNotFoundError)
    │   ├── PathExistsError(FileExistsError)
    │   │   └── VersionConflictError                  another save replaced the value first
    │   ├── PathTypeError                             a file instead of a directory, or vice versa
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
    │   └── StorageFullError                          the save would exceed the store's limit
    ├── VFSTypeError(TypeError)
    ├── MissingDependencyError(ImportError)
    └── FileLockError
        └── FileLockTimeoutError(TimeoutError)

All errors pickle, with their attributes and their cause. `str` of an error is its whole message.
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
    """Signal that a storage operation failed; the base class of all errors of polystore.

    Parameters
    ----------
    message : str
        The problem and, if there is one, the cure.
    path : str, optional
        The path of the operation.
    backend : str, optional
        The key of the backend that raised the error.

    Attributes
    ----------
    message, path, backend
        The arguments, unchanged.
    store : str or None
        The name and the lifetime of the store of polystore_ray whose memory raised the error.
    written : tuple of str
        The paths that were written before a batch failed.

    Examples
    --------
    >>> str(PathNotFoundError("no such file", path="/a.npy", backend="memory"))
    "no such file: '/a.npy' (backend memory)"
    """

    # Fills `OSError.errno` of the subclasses that are an OSError.
    _errno: ClassVar[int | None] = None
    store: str | None = None
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
        """Set the attributes that handlers of an OSError read."""
        self.errno: int | None = self._errno
        self.strerror: str | None = self.message
        self.filename: str | None = self.path

    def __str__(self) -> str:
        text = self.message
        if self.path is not None:
            text += f": {self.path!r}"
        if self.backend is not None:
            store = "" if self.store is None else f", store {self.store}"
            text += f" (backend {self.backend}{store})"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        if self.__cause__ is not None:
            state["__cause__"] = portable(self.__cause__)
        return _rebuild, (type(self), self.message, self.path, self.backend), state

    def located(self, *, path: str | None = None, backend: str | None = None) -> Self:
        """Set the path and the backend, unless the code that raised has set them; return self."""
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
    # Do not call the class: the __init__ of a subclass may have other parameters.
    base = OSError if issubclass(cls, OSError) else Exception
    error: StorageError = base.__new__(cls, message)
    StorageError.__init__(error, message, path=path, backend=backend)
    return error


def portable(error: BaseException) -> BaseException:
    """Return `error`, or a RuntimeError with its text if `error` cannot be pickled."""
    import cloudpickle  # late: it would be an eighth of the time to import polystore

    try:
        pickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001 - a foreign exception may fail to pickle in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def missing_dependency(
    what: str, error: ImportError, extra: str, *, backend: str | None = None
) -> MissingDependencyError:
    """Return the error for a failed import; its message names the extra to install."""
    package = f"the package {error.name!r}" if error.name else "a package"
    return MissingDependencyError(
        f"{what} needs {package}, which could not be imported ({error}); {brought_by(extra)}",
        backend=backend,
    )


def brought_by(extra: str) -> str:
    """Return how to install the packages of an extra, for an error message."""
    return f"the extra {extra!r} brings it: in a clone of polystore-ray, pip install '.[{extra}]'"


class StorageResolutionError(StorageError, ValueError):
    """Signal that a path or a key could not be resolved."""


class BackendNotFoundError(StorageResolutionError, KeyError):
    """Signal that no backend has this key, or that the backend cannot be used."""


class PathNotFoundError(StorageResolutionError, FileNotFoundError):
    """Signal that a path does not exist."""

    _errno = errno.ENOENT


class PathExistsError(StorageResolutionError, FileExistsError):
    """Signal that a path exists already; nothing was overwritten."""

    _errno = errno.EEXIST


class VersionConflictError(PathExistsError):
    """Signal that the value to replace has another version than expected."""


class PathTypeError(StorageResolutionError):
    """Signal that a path is a directory where a file is needed, or a file for a directory."""


class PathIsDirectoryError(PathTypeError, IsADirectoryError):
    """Signal that a path is a directory, and the operation needs a file."""

    _errno = errno.EISDIR


class PathNotDirectoryError(PathTypeError, NotADirectoryError):
    """Signal that a path is a file, and the operation needs a directory."""

    _errno = errno.ENOTDIR


class DirectoryNotEmptyError(StorageResolutionError, IsADirectoryError):
    """Signal that a directory cannot be deleted because it has entries."""

    _errno = errno.ENOTEMPTY


class InvalidPathError(StorageResolutionError):
    """Signal that a path is invalid: empty, above the root, or with a NUL character."""


class PathMismatchError(InvalidPathError):
    """Signal that a path is a URL with the scheme of another kind of store."""


class BatchLengthError(StorageResolutionError):
    """Signal that a batch has different numbers of values and paths."""


class UnsupportedFormatError(StorageError, ValueError):
    """Signal that no format has this suffix, or that the format cannot hold this value."""


class UnsupportedOperationError(StorageError, NotImplementedError):
    """Signal that the backend does not support the operation."""


class CorruptDataError(StorageError, ValueError):
    """Signal that stored bytes are damaged and cannot be decoded."""


class ImageLoadError(CorruptDataError, RuntimeError):
    """Signal that a stored image cannot be decoded."""


class StorageWriteError(StorageError, RuntimeError):
    """Signal that a value could not be written; the stored value is unchanged."""


class ImageSaveError(StorageWriteError, ValueError):
    """Signal that a value cannot be written as an image."""


class StorageFullError(StorageWriteError):
    """Signal that a save would exceed the limit of a store, or that a disk is full."""

    _errno = errno.ENOSPC


class VFSTypeError(StorageError, TypeError):
    """Signal that an argument has the wrong type."""


class MissingDependencyError(StorageError, ImportError):
    """Signal that an optional package is missing; the message names the extra that brings it."""


class FileLockError(StorageError):
    """Signal that a lock file could not be used."""


class FileLockTimeoutError(FileLockError, TimeoutError):
    """Signal that a lock was not released in time."""

    _errno = errno.ETIMEDOUT
