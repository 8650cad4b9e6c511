"""Temporary files and directories: their names, who left them, and how they are removed."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path

from polystore.filesystem.dir_fd import REACH, Held, Place, check_no_device
from polystore.filesystem.tree_operations import delete_tree

__all__ = [
    "PREFIX",
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
