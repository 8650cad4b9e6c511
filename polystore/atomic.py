"""Atomic changes of files: write to a temporary, then rename; and a lock between processes."""

from __future__ import annotations

import copy
import errno
import io
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

from polystore.exceptions import (
    CorruptDataError,
    StorageError,
    StorageResolutionError,
    VFSTypeError,
)
from polystore.file_lock import file_lock
from polystore.held import REACH, Held, Place, check_no_device
from polystore.os_errors import os_errors
from polystore.paths import P, as_system_text
from polystore.renames import publish_file
from polystore.trees import delete_tree

__all__ = [
    "PREFIX",
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
    "temporary_name",
]

PREFIX = ".polystore-tmp"
_SWEPT_EVERY = 60.0  # seconds, for one directory and process
_MOST_SWEPT = 10_000  # directories that are remembered
_FOREIGN_AGE = 24 * 3600.0  # seconds after which one of another machine or boot counts as left
_LONGEST = 7  # digits of the number of a process

_swept: dict[str, float] = {}


def temporary_name() -> str:
    """Return a new name that listings hide and `sweep` can judge."""
    return f"{PREFIX}~{_host()}~{_own_process(os.getpid())}~{os.urandom(6).hex()}"


def is_temporary(name: str) -> bool:
    """Return whether a base name is that of a temporary."""
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


def sweep(directory: Held, name: str) -> None:
    """Remove from a directory the temporaries that dead processes left.

    It looks into a directory, known by `name`, once in a minute, so that saves stay cheap.
    """
    now = time.monotonic()
    if now - _swept.get(name, -_SWEPT_EVERY) < _SWEPT_EVERY:
        return
    if len(_swept) >= _MOST_SWEPT:
        _swept.clear()
    _swept[name] = now
    sweep_now(directory)


def sweep_now(directory: Held) -> None:
    """Remove from a directory the temporaries that dead processes left, however often."""
    with suppress(OSError), directory.entries() as entries:
        for entry in entries:
            if is_temporary(entry.name) and is_left(entry.name, partial(_modified, entry)):
                remove(directory.place(entry.name))


def _modified(entry: os.DirEntry[str]) -> float:
    return entry.stat(follow_symlinks=False).st_mtime


@contextmanager
def hidden_directory(place: Place) -> Iterator[Held]:
    """Give a new directory beside a place that listings hide; it goes with what is in it."""
    hidden = place.beside(temporary_name())
    hidden.make_directory()
    try:
        with hidden.hold(REACH | os.O_DIRECTORY) as directory:
            yield directory
    finally:
        remove(hidden)


def remove(place: Place) -> None:
    """Remove a file, a link or a temporary tree, that may be gone already."""
    if place.is_directory():
        with suppress(OSError):  # what stays is hidden, and swept later
            delete_tree(place)
    else:
        with suppress(FileNotFoundError):
            place.remove_file()


def is_left(name: str, modified: Callable[[], float]) -> bool:
    """Return whether the process is gone that made a temporary of this name.

    One of another machine or boot is judged by the time that `modified` returns.
    """
    _, host, pid, started, *_ = (*name.split("~"), "", "", "")
    if host != _host() or not _is_process(pid):
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


def _is_process(text: str) -> bool:
    """Return whether a text is the number of a process, as `temporary_name` writes it."""
    return text.isascii() and text.isdecimal() and text[0] != "0" and len(text) <= _LONGEST


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
        If `mode` is another one, or `path` is no path.
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
    text = as_system_text(path)
    if mode not in ("w", "wb"):
        raise VFSTypeError(f"atomic_write opens with 'w' or 'wb', not {mode!r}", path=text)
    target = os.path.realpath(text)
    directory, name = os.path.split(target)
    with os_errors(text, None):
        if os.path.islink(target):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), text)
        if ensure_directory:
            os.makedirs(directory, exist_ok=True)
        held = Held.at(directory, os.O_DIRECTORY)
    with held:
        place, temporary = held.place(name or "."), held.place(temporary_name())
        with os_errors(text, None):
            keep_mode(place)
            sweep(held, directory)
            opened = temporary.create()
        file: IO[Any] = opened if mode == "wb" else io.TextIOWrapper(opened, "utf-8")
        try:
            with file:
                yield file
            with os_errors(text, None):
                temporary.sync()
                keep_mode(place, temporary)
                publish_file(temporary, place, overwrite=True)
        except BaseException:
            remove(temporary)
            raise
        with os_errors(text, None):
            held.sync()


def keep_mode(place: Place, temporary: Place | None = None) -> None:
    """Give the temporary the mode bits of the file whose place it takes, if it is of its kind.

    Raises
    ------
    UnsupportedFormatError
        If that is a pipe, a socket or a device, whose place nothing takes.
    """
    try:
        status = place.status()
    except FileNotFoundError:
        return
    check_no_device(status)
    if temporary is not None and temporary.status().st_mode != status.st_mode:
        temporary.set_mode(stat.S_IMODE(status.st_mode), stat.S_IFMT(status.st_mode))


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
    text = as_system_text(path)
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
        Given the present value, or a copy of `default_data` where there is no file, returns the
        new one.
    lock_timeout : float, default 30.0
        Seconds to wait for the lock.
    default_data : object, optional
        The value where there is no file; an empty dict by default.

    Raises
    ------
    VFSTypeError
        If `function` cannot be called, or `lock_timeout` is not a number of seconds.
    CorruptDataError
        If the file holds no JSON; it stays as it is.
    FileLockTimeoutError
        If the lock was not free in time.
    """
    text = as_system_text(path)
    if not callable(function):
        raise VFSTypeError(
            f"function is what returns the new value, not a {type(function).__name__}", path=text
        )
    with file_lock(text, timeout=lock_timeout):
        atomic_write_json(function(_read_json(text, default_data)), Path(text))


def _read_json(path: str, default: Any) -> Any:
    with os_errors(path, None, refused=StorageResolutionError):
        try:
            with Held.at(path) as held, held.open() as file:
                return json.loads(file.read().decode())
        except FileNotFoundError:
            return {} if default is None else copy.deepcopy(default)
        except (ValueError, RecursionError) as error:
            if isinstance(error, StorageError):
                raise
            raise CorruptDataError(f"the file holds no JSON ({error})") from error
