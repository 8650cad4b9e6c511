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

from polystore.filesystem.dir_fd import Place

__all__ = ["ReplacedError", "exchange", "publish_file", "put", "rename_new", "replace_only"]

_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2
_FROM_HERE = -100  # AT_FDCWD


class ReplacedError(Exception):
    """What was to be replaced was replaced by another."""


def publish_file(temporary: Place, target: Place, *, overwrite: bool) -> None:
    """Give a written temporary its name, at once; of several without `overwrite`, one wins.

    Raises
    ------
    FileExistsError
        If the target exists, unless `overwrite`.
    """
    if overwrite:
        temporary.rename(target)
    else:
        rename_new(temporary, target)


def rename_new(one: Place, other: Place) -> None:
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


def exchange(one: Place | str, other: Place | str) -> bool:
    """Exchange two existing places in one step; False where it cannot be done (not Linux).

    Of a path of the system, the links on the way to its last name are followed.
    """
    return _renameat2(one, other, _EXCHANGE)


def put(new: Place, place: Place, replaceable: Callable[[Place], None]) -> Place | None:
    """Give a file, link or directory a name at which others make, replace and delete meanwhile.

    Parameters
    ----------
    new : Place
        What is to take the name.
    place : Place
        The name; while one thing is replaced by another, nobody finds it missing.
    replaceable : callable
        Raises, or returns for what may be replaced; given a place that may be empty by then.

    Returns
    -------
    Place or None
        Where that is now what was replaced, for the caller to remove.
    """
    while True:
        with suppress(FileExistsError):
            rename_new(new, place)
            return None
        try:
            replaceable(place)
            if not exchange(new, place):
                return _displace(new, place)
        except FileNotFoundError:
            new.status()  # or its own directory is gone
            continue
        try:
            replaceable(new)
        except BaseException:
            exchange(new, place)  # something else came since it was looked at
            raise
        return new


def replace_only(known: os.stat_result, new: Place, place: Place) -> None:
    """Put a file in the place of a known one.

    Raises
    ------
    ReplacedError
        If another has taken its place, and keeps it.
    FileNotFoundError
        If nothing is there any more.
    """
    if not os.path.samestat(place.status(), known):
        raise ReplacedError
    placed = new.status()
    if not exchange(new, place):
        new.rename(place)  # not Linux: the check and the rename are two steps
        return
    found = new.status()
    if os.path.samestat(found, known):
        new.remove_file()
        return
    while True:  # another came between: it is put back, unless yet another came by then
        before, placed = placed, found
        exchange(new, place)
        found = new.status()
        if os.path.samestat(found, before):
            raise ReplacedError


def _displace(new: Place, place: Place) -> Place | None:
    """Replace where paths cannot be exchanged (not Linux)."""
    if not (new.is_directory() or place.is_directory()):
        new.rename(place)
        return None
    # A reader may for a moment find nothing.
    aside = new.beside(f"{new.name}~replaced")
    place.rename(aside)
    new.rename(place)
    return aside


def _renameat2(one: Place | str, other: Place | str, flag: int) -> bool:
    """Rename with a flag of Linux; False where there is no such thing."""
    function = _libc_renameat2()
    if function is None:
        return False
    if function(*_at(one), *_at(other), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number))


def _at(place: Place | str) -> tuple[int, bytes]:
    if isinstance(place, str):
        return _FROM_HERE, os.fsencode(place)
    return place.directory.descriptor, os.fsencode(place.name)


@cache
def _libc_renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
