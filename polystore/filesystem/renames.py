"""Renames that are one step also where others rename at the same time."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from polystore.filesystem.dir_fd import Location

__all__ = [
    "ReplacedError",
    "exchange",
    "publish_file",
    "rename_new",
    "replace_checked",
    "replace_only",
]

_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2
_FROM_HERE = -100  # AT_FDCWD


class ReplacedError(Exception):
    """Another writer has replaced the file that was to be replaced."""


def publish_file(temporary: Location, target: Location, *, overwrite: bool) -> None:
    """Rename a written temporary to its target, at once; of several without `overwrite`, one wins.

    Raises
    ------
    FileExistsError
        If the target exists, unless `overwrite`.
    """
    if overwrite:
        temporary.rename(target)
    else:
        rename_new(temporary, target)


def rename_new(one: Location, other: Location) -> None:
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

    Raises
    ------
    ReplacedError
        If another has taken its place, and keeps it.
    FileNotFoundError
        If nothing is there any more.
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
