"""Atomic changes of files: write to a temporary, then rename; and a lock between processes."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

import filelock

from polystore.exceptions import (
    CorruptDataError,
    FileLockError,
    FileLockTimeoutError,
    StorageResolutionError,
    VFSTypeError,
)
from polystore.os_errors import located, os_errors
from polystore.paths import P, as_text
from polystore.renames import publish_file
from polystore.trees import delete_tree

__all__ = [
    "PREFIX",
    "acquired",
    "atomic_update_json",
    "atomic_write",
    "atomic_write_json",
    "file_lock",
    "hidden_directory",
    "is_left",
    "is_temporary",
    "keep_mode",
    "remove",
    "sweep",
    "sweep_now",
    "sync_directory",
    "sync_file",
    "sync_tree",
    "temporary_name",
]

PREFIX = ".polystore-tmp"
_SWEPT_EVERY = 60.0  # seconds, for one directory and process
_MOST_SWEPT = 10_000  # directories that are remembered
_FOREIGN_AGE = 24 * 3600.0  # seconds after which one of another machine or boot counts as left

_swept: dict[str, float] = {}


def temporary_name(target: str) -> str:
    """Return a new name beside `target` that listings hide and `sweep` can judge."""
    token = f"{PREFIX}~{_host()}~{_own_process(os.getpid())}~{os.urandom(6).hex()}"
    return os.path.join(os.path.dirname(target), token)


def is_temporary(name: str) -> bool:
    """Tell whether a base name is that of a temporary."""
    return name.startswith(PREFIX)


@cache
def _host() -> str:
    """Return what the processes that this one can see have in common: machine, boot, container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname().replace("~", "-")


@cache
def _own_process(pid: int) -> str:
    return f"{pid}~{_started(pid)}"


def _started(pid: int) -> str:
    """Return when a process began, "" for none; the next one with its id began later."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if state == b"Z" else fields[18].decode()


def sweep(directory: str, name: str | None = None) -> None:
    """Remove from a directory the temporaries that dead processes left.

    It looks into a directory, known by `name`, once in a minute, so that saves stay cheap.
    """
    name, now = name or directory, time.monotonic()
    if now - _swept.get(name, -_SWEPT_EVERY) < _SWEPT_EVERY:
        return
    if len(_swept) >= _MOST_SWEPT:
        _swept.clear()
    _swept[name] = now
    sweep_now(directory)


def sweep_now(directory: str) -> None:
    """Remove from a directory the temporaries that dead processes left, however often."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if is_temporary(entry.name) and is_left(entry.name, partial(_modified, entry)):
                remove(entry.path)


def _modified(entry: os.DirEntry[str]) -> float:
    return entry.stat(follow_symlinks=False).st_mtime


@contextmanager
def hidden_directory(target: str) -> Iterator[str]:
    """Give a new directory beside `target` that listings hide; it goes with what is in it."""
    directory = temporary_name(target)
    os.mkdir(directory)
    try:
        yield directory
    finally:
        remove(directory)


def remove(path: str) -> None:
    """Remove a file, a link or a temporary tree, that may be gone already."""
    if os.path.isdir(path) and not os.path.islink(path):
        with suppress(OSError):  # what stays is hidden, and swept later
            delete_tree(path)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)


def is_left(name: str, modified: Callable[[], float]) -> bool:
    """Tell whether the process is gone that made a temporary of this name.

    One of another machine or boot is judged by the time that `modified` returns.
    """
    _, host, pid, started, *_ = (*name.split("~"), "", "", "")
    if host != _host() or not pid.isdecimal():
        return time.time() - modified() > _FOREIGN_AGE
    if started:
        return _started(int(pid)) != started
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def sync_directory(directory: str) -> None:
    """Make renames in a directory survive the loss of power, where the system can."""
    if os.name == "posix":
        _sync(directory, os.O_RDONLY)


def sync_file(file: str) -> None:
    """Make what was written to a file survive the loss of power."""
    _sync(file, os.O_RDONLY | os.O_NOFOLLOW)


def _sync(place: str, flags: int) -> None:
    descriptor = os.open(place, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(place: str) -> None:
    """Make all files and names of a tree survive the loss of power, where the system can."""
    for directory, _, files in os.walk(place):
        for name in files:
            sync_file(f"{directory}/{name}")
        sync_directory(directory)


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
        If `mode` is another one.
    PathNotFoundError, PathNotDirectoryError, PathIsDirectoryError, StorageWriteError
        If the file system refuses; the exceptions of the block itself pass unchanged.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with atomic_write(target) as file:
    ...     _ = file.write("whole")
    >>> target.read_text()
    'whole'
    """
    text = as_text(path)
    if mode not in ("w", "wb"):
        raise VFSTypeError(f"atomic_write opens with 'w' or 'wb', not {mode!r}", path=text)
    target = os.path.realpath(text)
    directory = os.path.dirname(target)
    temporary = temporary_name(target)
    encoding = None if "b" in mode else "utf-8"
    with os_errors(text, None):
        if os.path.islink(target):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), text)
        if ensure_directory:
            os.makedirs(directory, exist_ok=True)
        sweep(directory)
        file: IO[Any] = open(temporary, mode.replace("w", "x"), encoding=encoding)  # noqa: SIM115
    try:
        with file:
            yield file
        with os_errors(text, None):
            sync_file(temporary)
            keep_mode(target, temporary)
            publish_file(temporary, target, overwrite=True)
    except BaseException:
        remove(temporary)
        raise
    with os_errors(text, None):
        sync_directory(directory)


def keep_mode(target: str, temporary: str) -> None:
    """Give the temporary the mode bits of the file whose place it takes, if it is of its kind."""
    try:
        status = os.stat(target, follow_symlinks=False)
    except FileNotFoundError:
        return
    # Not by name, which somebody could have made a link.
    descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if stat.S_IFMT(status.st_mode) == stat.S_IFMT(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    finally:
        os.close(descriptor)


def atomic_write_json(data: Any, path: P, indent: int | None = 2) -> None:
    """Write `data` as JSON to `path`, whole or not at all.

    The first two arguments may be given the other way round.

    Raises
    ------
    TypeError
        If `data` is nothing that JSON can hold; the target stays as it was.
    """
    if isinstance(data, os.PathLike) or (isinstance(data, str) and not _is_path(path)):
        data, path = path, data
    with atomic_write(path) as file:
        json.dump(data, file, indent=indent)


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
        Given the present value, or a copy of `default_data` where there is no file, returns the
        new one.
    lock_timeout : float, default 30.0
        Seconds to wait for the lock.
    default_data : object, optional
        The value where there is no file; an empty dict by default.

    Raises
    ------
    CorruptDataError
        If the file holds no JSON; it stays as it is.
    FileLockTimeoutError
        If the lock was not free in time.
    """
    text = as_text(path)
    with file_lock(text, timeout=lock_timeout):
        atomic_write_json(function(_read_json(text, default_data)), Path(text))


def _read_json(path: str, default: Any) -> Any:
    with os_errors(path, None, refused=StorageResolutionError):
        try:
            return json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return json.loads(json.dumps({} if default is None else default))
        except (ValueError, RecursionError) as error:
            raise CorruptDataError(f"the file holds no JSON ({error})") from error


@contextmanager
def file_lock(path: P, timeout: float = 30.0, poll_interval: float = 0.1) -> Iterator[None]:
    """Hold the lock of `path`, exclusive among processes and threads, for a block.

    The lock file is what ``path`` leads to with ``.lock`` appended, so that a link and its target
    have one lock. It is left in place, since to remove it would take it from under a waiter.

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
    FileLockTimeoutError
        If the lock was not free in time.
    FileLockError
        If the lock file cannot be made.
    """
    text = as_text(path)
    lock_file = f"{os.path.realpath(text)}.lock"
    with located(text, None):
        try:
            Path(lock_file).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileLockError(f"the lock file cannot be used: {error}") from error
        lock = acquired(lock_file, timeout, poll_interval)
    try:
        yield
    finally:
        lock.release()


def acquired(lock_file: str, timeout: float, poll_interval: float) -> filelock.BaseFileLock:
    """Return a lock that is held, exclusive among processes and threads; the caller releases it.

    Raises
    ------
    FileLockTimeoutError
        If it was not free in time.
    FileLockError
        If the lock file cannot be made.
    """
    # One lock object for each use, so that threads exclude each other as processes do.
    lock = filelock.FileLock(lock_file, thread_local=True, is_singleton=False)
    try:
        lock.acquire(timeout=timeout, poll_interval=poll_interval)
    except filelock.Timeout as error:
        raise FileLockTimeoutError(f"the lock was not free within {timeout:g} s") from error
    except OSError as error:
        raise FileLockError(f"the lock file cannot be used: {error}") from error
    return lock
