"""Temporary files and directories: their names, how they are published, and how they are removed.

A rename that publishes one is a single step, also where others rename at the same time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from polystore.filesystem.dir_fd import REACH, Handle, Location, check_no_device
from polystore.filesystem.tree_operations import delete_tree

__all__ = [
    "PREFIX",
    "ReplacedError",
    "exchange",
    "is_left",
    "is_temporary",
    "keep_mode",
    "publish_file",
    "remove",
    "rename_new",
    "replace_checked",
    "replace_only",
    "sweep",
    "sweep_now",
    "temporary",
    "temporary_name",
]

PREFIX = ".polystore-tmp"
_SWEPT_EVERY = 60.0  # seconds, for one directory and process
_MOST_SWEPT = 10_000  # directories that are remembered
_FOREIGN_AGE = 24 * 3600.0  # seconds after which one of another machine or boot counts as left
_LONGEST = 7  # digits of the number of a process

_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2
_FROM_HERE = -100  # AT_FDCWD

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


def sweep(directory: Handle, name: str) -> None:
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


def sweep_now(directory: Handle) -> None:
    """Remove from a directory the temporaries that dead processes left, however often."""
    with suppress(OSError), directory.entries() as entries:
        for entry in entries:
            if is_temporary(entry.name) and is_left(entry.name, partial(_modified, entry)):
                remove(directory.location(entry.name))


def _modified(entry: os.DirEntry[str]) -> float:
    return entry.stat(follow_symlinks=False).st_mtime


@contextmanager
def temporary(location: Location, *, hidden: bool = False) -> Iterator[Location]:
    """Yield a location for what is to replace something in this directory, or to go from it.

    If the block fails, what is there is removed. A `hidden` one is in a directory of its own, so
    that programs do not see it that list all names.
    """
    found = location.sibling(temporary_name())
    if hidden:
        found.make_directory()
    try:
        if hidden:
            with found.hold(REACH | os.O_DIRECTORY) as directory:
                yield directory.location("new")
        else:
            yield found
    except BaseException:
        remove(found)
        raise
    if hidden:
        try:
            found.remove_directory()
        except OSError:
            remove(found)  # something is left in it


def remove(location: Location) -> None:
    """Remove a file, a link or a temporary tree, that may be gone already."""
    if location.is_directory():
        with suppress(OSError):  # what stays is hidden, and swept later
            delete_tree(location)
    else:
        with suppress(FileNotFoundError):
            location.remove_file()


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


def keep_mode(location: Location, temporary: Location | None = None) -> None:
    """Copy the mode bits of the file that a temporary replaces, if it is of its kind.

    Raises `UnsupportedFormatError` if that is a pipe, a socket or a device, whose place nothing
    takes.
    """
    try:
        status = location.status()
    except FileNotFoundError:
        return
    check_no_device(status)
    if temporary is not None and temporary.status().st_mode != status.st_mode:
        temporary.set_mode(stat.S_IMODE(status.st_mode), stat.S_IFMT(status.st_mode))


class ReplacedError(Exception):
    """Another writer has replaced the file that was to be replaced."""


def publish_file(temporary: Location, target: Location, *, overwrite: bool) -> None:
    """Rename a written temporary to its target, at once; of several without `overwrite`, one wins.

    Raises `FileExistsError` if the target exists, unless `overwrite`.
    """
    if overwrite:
        temporary.rename(target)
    else:
        rename_new(temporary, target)


def rename_new(one: Location, other: Location) -> None:
    """Rename a file, link or directory to a name that is free.

    Raises `FileExistsError` if the name is taken. Where the system has neither ``renameat2`` nor
    hard links, the check and the rename are two steps.
    """
    if _renameat2(one, other, _NOREPLACE):
        return
    try:
        one.link(other)
    except FileExistsError:
        raise
    except OSError as error:
        if other.exists():
            raise FileExistsError(errno.EEXIST, "the path exists", other.name) from error
        one.rename(other)
    else:
        one.remove_file()


def exchange(one: Location | str, other: Location | str) -> bool:
    """Exchange two existing locations in one step; False where it cannot be done (not Linux).

    Of a path of the system, the links on the way to its last name are followed.
    """
    return _renameat2(one, other, _EXCHANGE)


def replace_checked(
    new: Location, location: Location, replaceable: Callable[[Location], None]
) -> Location | None:
    """Rename to a name at which others create, replace and delete concurrently.

    Parameters
    ----------
    new : Location
        What is to take the name.
    location : Location
        The name; while one thing is replaced by another, nobody finds it missing.
    replaceable : callable
        Raises, or returns for what may be replaced; given a location that may be empty by then.

    Returns
    -------
    Location or None
        Where that is now what was replaced, for the caller to remove.
    """
    while True:
        with suppress(FileExistsError):
            rename_new(new, location)
            return None
        try:
            replaceable(location)
            if not exchange(new, location):
                return _displace(new, location)
        except FileNotFoundError:
            new.status()  # or its own directory is gone
            continue
        try:
            replaceable(new)
        except BaseException:
            exchange(new, location)  # something else came since it was looked at
            raise
        return new


def replace_only(known: os.stat_result, new: Location, location: Location) -> None:
    """Put a file in the place of a known one.

    Raises `ReplacedError` if another has taken its place, and keeps it; `FileNotFoundError` if
    nothing is there any more.
    """
    if not os.path.samestat(location.status(), known):
        raise ReplacedError
    placed = new.status()
    if not exchange(new, location):
        new.rename(location)  # not Linux: the check and the rename are two steps
        return
    found = new.status()
    if os.path.samestat(found, known):
        new.remove_file()
        return
    while True:  # another file came between: it is put back, unless yet another came by then
        before, placed = placed, found
        exchange(new, location)
        found = new.status()
        if os.path.samestat(found, before):
            raise ReplacedError


def _displace(new: Location, location: Location) -> Location | None:
    """Replace where paths cannot be exchanged (not Linux)."""
    if not (new.is_directory() or location.is_directory()):
        new.rename(location)
        return None
    # A reader may for a moment find nothing.
    aside = new.sibling(f"{new.name}~replaced")
    location.rename(aside)
    new.rename(location)
    return aside


def _renameat2(one: Location | str, other: Location | str, flag: int) -> bool:
    """Rename with a flag of Linux; return False where the system lacks it."""
    function = _libc_renameat2()
    if function is None:
        return False
    if function(*_at(one), *_at(other), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number))


def _at(location: Location | str) -> tuple[int, bytes]:
    if isinstance(location, str):
        return _FROM_HERE, os.fsencode(location)
    return location.directory.descriptor, os.fsencode(location.name)


@cache
def _libc_renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
