"""Atomic changes of files: write to a temporary, then rename; and a lock between processes."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import stat
import sys
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
    VFSTypeError,
)
from polystore.paths import P, as_text

__all__ = [
    "PREFIX",
    "atomic_update_json",
    "atomic_write",
    "atomic_write_json",
    "exchange",
    "file_lock",
    "is_left",
    "is_temporary",
    "keep_mode",
    "publish_file",
    "remove",
    "rename_new",
    "sweep",
    "sync_directory",
    "sync_tree",
    "temporary_name",
]

PREFIX = ".polystore-tmp"
_SWEPT_EVERY = 60.0  # seconds, for one directory and process
_FOREIGN_AGE = 24 * 3600.0  # seconds after which another machine's temporary counts as left
_HOST = socket.gethostname().replace("~", "-")

_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2

_swept: dict[str, float] = {}


def temporary_name(target: str) -> str:
    """Return a new name beside `target` that listings hide and `sweep` can judge."""
    token = f"{PREFIX}~{_HOST}~{os.getpid()}~{os.urandom(6).hex()}"
    return os.path.join(os.path.dirname(target), token)


def is_temporary(name: str) -> bool:
    """Tell whether a base name is that of a temporary."""
    return name.startswith(PREFIX)


def sweep(directory: str, name: str | None = None) -> None:
    """Remove from a directory the temporaries that dead processes left.

    It looks into a directory, known by `name`, once in a minute, so that saves stay cheap.
    """
    name, now = name or directory, time.monotonic()
    if now - _swept.get(name, -_SWEPT_EVERY) < _SWEPT_EVERY:
        return
    _swept[name] = now
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if is_temporary(entry.name) and is_left(entry.name, partial(_modified, entry)):
                remove(entry.path)


def _modified(entry: os.DirEntry[str]) -> float:
    return entry.stat(follow_symlinks=False).st_mtime


def remove(path: str) -> None:
    """Remove a file, a link or a tree that may be gone already."""
    if Path(path).is_dir() and not Path(path).is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            Path(path).unlink()


def is_left(name: str, modified: Callable[[], float]) -> bool:
    """Tell whether the process is gone that made a temporary of this name.

    Another machine's cannot be asked for: `modified` gives the time by which it is judged.
    """
    _, host, pid, *_ = (*name.split("~"), "", "")
    if host != _HOST or not pid.isdecimal():
        return time.time() - modified() > _FOREIGN_AGE
    if int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def publish_file(temporary: str, target: str, *, overwrite: bool) -> None:
    """Give a written temporary its name, at once; of several without `overwrite`, one wins.

    Raises
    ------
    FileExistsError
        If the target exists, unless `overwrite`.
    """
    if overwrite:
        os.replace(temporary, target)
    else:
        rename_new(temporary, target)


def rename_new(one: str, other: str) -> None:
    """Rename a file, link or directory to a name that is free.

    Raises
    ------
    FileExistsError
        If the name is taken. Where the system has neither ``renameat2`` nor hard links, the check
        and the rename are two steps.
    """
    if _renameat2(one, other, _NOREPLACE):
        return
    try:
        os.link(one, other, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if os.path.lexists(other):
            raise FileExistsError(errno.EEXIST, "the path exists", other) from error
        os.rename(one, other)
    else:
        os.unlink(one)


def exchange(one: str, other: str) -> bool:
    """Exchange two existing paths in one step; False where it cannot be done (not Linux)."""
    return _renameat2(one, other, _EXCHANGE)


def _renameat2(one: str, other: str, flag: int) -> bool:
    """Rename with a flag of Linux; False where there is no such thing."""
    function = _libc_renameat2()
    if function is None:
        return False
    at_cwd = -100
    if function(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), other)


@cache
def _libc_renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def sync_directory(directory: str) -> None:
    """Make renames in a directory survive the loss of power, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(place: str) -> None:
    """Make all files and names of a tree survive the loss of power, where the system can."""
    for directory, _, files in os.walk(place):
        for name in files:
            descriptor = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
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

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with atomic_write(target) as file:
    ...     _ = file.write("whole")
    >>> target.read_text()
    'whole'
    """
    if mode not in ("w", "wb"):
        raise VFSTypeError(f"atomic_write opens with 'w' or 'wb', not {mode!r}", path=str(path))
    target = os.path.realpath(as_text(path))
    directory = Path(target).parent
    if ensure_directory:
        directory.mkdir(parents=True, exist_ok=True)
    sweep(str(directory))
    temporary = temporary_name(target)
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode.replace("w", "x"), encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        keep_mode(target, temporary)
        publish_file(temporary, target, overwrite=True)
    except BaseException:
        remove(temporary)
        raise
    sync_directory(str(directory))


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
        try:
            value = json.loads(Path(text).read_text(encoding="utf-8"))
        except FileNotFoundError:
            value = json.loads(json.dumps({} if default_data is None else default_data))
        except ValueError as error:
            raise CorruptDataError("the file holds no JSON", path=text) from error
        atomic_write_json(function(value), Path(text))


@contextmanager
def file_lock(path: P, timeout: float = 30.0, poll_interval: float = 0.1) -> Iterator[None]:
    """Hold the lock of `path`, exclusive among processes and threads, for a block.

    The lock file is ``path`` with ``.lock`` appended. It is left in place, since to remove it
    would take it from under a waiter.

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
    # One lock object for each use, so that threads exclude each other as processes do.
    lock = filelock.FileLock(f"{text}.lock", thread_local=True, is_singleton=False)
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout, poll_interval=poll_interval)
    except filelock.Timeout as error:
        raise FileLockTimeoutError(
            f"the lock was not free within {timeout:g} s", path=text
        ) from error
    except OSError as error:
        raise FileLockError(f"the lock file cannot be used: {error}", path=text) from error
    try:
        yield
    finally:
        lock.release()
