"""Atomic changes of files: write to a temporary file, then rename it over the target."""

from __future__ import annotations

import copy
import errno
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from polystore.arguments import seconds
from polystore.error_translation import located, os_errors
from polystore.exceptions import (
    CorruptDataError,
    FileLockError,
    StorageError,
    StorageResolutionError,
    VFSTypeError,
)
from polystore.filesystem.changes import again_while_missing
from polystore.filesystem.dir_fd import Handle
from polystore.filesystem.locks import Deadline, hold_lock_file
from polystore.filesystem.temporaries import keep_mode, publish_file, sweep, temporary
from polystore.paths import P, as_file_path

__all__ = ["atomic_update_json", "atomic_write", "atomic_write_json", "file_lock"]


@contextmanager
def file_lock(path: P, timeout: float = 30.0, poll_interval: float = 0.1) -> Iterator[None]:
    """Hold the lock of `path` for a block; it excludes other threads and processes.

    The lock file is what `path` leads to with ``.lock`` appended, so that a link and its target
    have one lock. It is left in place: to remove it would take it from under a waiter.

    Parameters
    ----------
    path : str or os.PathLike
        What to lock; it need not exist.
    timeout : float, default 30.0
        Seconds to wait; 0 tries once.
    poll_interval : float, default 0.1
        Seconds between tries.

    Raises
    ------
    VFSTypeError
        If `timeout` or `poll_interval` is not a number of seconds of at least 0.
    InvalidPathError
        If the path cannot be one of the file system.
    FileLockTimeoutError
        If the lock was not free in time.
    FileLockError
        If the lock file cannot be made.
    """
    text = as_file_path(path)
    deadline, pause = Deadline(seconds(timeout, "timeout")), seconds(poll_interval, "poll_interval")
    directory, name = os.path.split(f"{os.path.realpath(text)}.lock")

    def acquire() -> int:
        os.makedirs(directory, exist_ok=True)
        with Handle.at(directory, os.O_DIRECTORY) as handle:
            return hold_lock_file(handle.location(name), deadline, pause)

    with located(text, None):
        try:
            descriptor = again_while_missing(acquire)
        except FileLockError:
            raise
        except OSError as error:
            raise FileLockError(f"the lock file cannot be used: {error}") from error
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: P, mode: str = "w", ensure_directory: bool = True) -> Iterator[IO[Any]]:
    """Yield a file that takes the place of `path` when the block ends well.

    On success it is flushed, synced and renamed over the target; on any exception it is removed,
    the target stays as it was, and the exception passes. The mode bits of an existing target
    stay, and a linked target stays a link.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write.
    mode : {"w", "wb"}, default "w"
        Text, in UTF-8, or bytes.
    ensure_directory : bool, default True
        Whether to make missing directories.

    Raises
    ------
    VFSTypeError
        If `mode` is another one, or `path` is not a path.
    InvalidPathError
        If the path cannot be one of the file system.
    PathNotFoundError, PathNotDirectoryError, PathIsDirectoryError, StorageWriteError
        If the file system refuses; the exceptions of the block itself pass unchanged.
    UnsupportedFormatError
        If the path is a pipe, a socket or a device.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with atomic_write(target) as file:
    ...     _ = file.write("whole")
    >>> target.read_text()
    'whole'
    """
    text = as_file_path(path)
    if mode not in ("w", "wb"):
        raise VFSTypeError(f"atomic_write opens with 'w' or 'wb', not {mode!r}", path=text)
    target = os.path.realpath(text)
    directory, name = os.path.split(target)
    with os_errors(text, None):
        if os.path.islink(target):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), text)
        if ensure_directory:
            os.makedirs(directory, exist_ok=True)
        handle = Handle.at(directory, os.O_DIRECTORY)
    with handle:
        location = handle.location(name or ".")
        with os_errors(text, None):
            keep_mode(location)
            sweep(handle, directory)
        with temporary(location) as new:
            with os_errors(text, None):
                opened = new.create()
            file: IO[Any] = opened if mode == "wb" else io.TextIOWrapper(opened, "utf-8")
            with file:
                yield file
            with os_errors(text, None):
                new.sync()
                keep_mode(location, new)
                publish_file(new, location, overwrite=True)
        with os_errors(text, None):
            handle.sync()


def atomic_write_json(data: Any, path: P, indent: int | None = 2) -> None:
    """Write `data` as JSON to `path`, whole or not at all.

    The first two arguments may be given the other way round.

    Raises
    ------
    VFSTypeError
        If JSON cannot hold `data`; the target stays as it was.
    StorageError
        As `atomic_write`.
    """
    if isinstance(data, os.PathLike) or (isinstance(data, str) and not _is_path(path)):
        data, path = path, data
    text = as_file_path(path)
    try:
        written = json.dumps(data, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise VFSTypeError(f"JSON cannot hold the value ({error})", path=text) from error
    with atomic_write(text) as file:
        file.write(written)


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


def atomic_update_json(
    path: P,
    function: Callable[[Any], Any],
    lock_timeout: float = 30.0,
    default_data: Any = None,
) -> None:
    """Replace the JSON value at `path` by ``function(value)``, under the path's lock.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    function : callable
        Given the present value, returns the new one. Where there is no file, it is given a copy of
        `default_data`, which is None by default.
    lock_timeout : float, default 30.0
        Seconds to wait for the lock.
    default_data : object, optional
        The value where there is no file.

    Raises
    ------
    VFSTypeError
        If `function` cannot be called, or `lock_timeout` is not a number of seconds.
    CorruptDataError
        If the file holds no JSON; it stays as it is.
    FileLockTimeoutError
        If the lock was not free in time.
    """
    text = as_file_path(path)
    if not callable(function):
        raise VFSTypeError(
            f"function is what returns the new value, not a {type(function).__name__}", path=text
        )
    with file_lock(text, timeout=lock_timeout):
        atomic_write_json(function(_read_json(text, default_data)), Path(text))


def _read_json(path: str, default: Any) -> Any:
    with os_errors(path, None, refused=StorageResolutionError):
        try:
            with Handle.at(path) as handle, handle.open() as file:
                return json.loads(file.read().decode())
        except FileNotFoundError:
            return copy.deepcopy(default)
        except (ValueError, RecursionError) as error:
            if isinstance(error, StorageError):
                raise
            raise CorruptDataError(f"the file holds no JSON ({error})") from error
