"""Copies of trees on a local file system, that follow no link on the way."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable

__all__ = ["copy_tree"]

_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def copy_tree(origin: str, target: str, skip: Callable[[str], bool]) -> None:
    """Copy a file, a link as a link, or a tree to a path that is free.

    Modes and times of files are kept. Names that `skip` accepts are left out.

    Raises
    ------
    OSError
        Also for what is neither file, link nor directory, such as a socket.
    """
    source = os.open(str(os.path.dirname(origin)) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        place = os.open(str(os.path.dirname(target)) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            _copy(source, os.path.basename(origin), place, os.path.basename(target), skip)
        finally:
            os.close(place)
    finally:
        os.close(source)


def _copy(source: int, name: str, place: int, new: str, skip: Callable[[str], bool]) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=place)
        return
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, "neither file, link nor directory", name)
    # Opened without following a link that may have come since.
    opened = os.open(name, os.O_RDONLY | _NO_LINK, dir_fd=source)
    try:
        if stat.S_ISREG(status.st_mode):
            _copy_file(opened, place, new)
            return
        os.mkdir(new, dir_fd=place)
        made = os.open(new, os.O_RDONLY | os.O_DIRECTORY | _NO_LINK, dir_fd=place)
        try:
            for child in os.listdir(opened):
                if not skip(child):
                    _copy(opened, child, made, child, skip)
        finally:
            os.close(made)
    finally:
        os.close(opened)


def _copy_file(opened: int, place: int, new: str) -> None:
    status = os.fstat(opened)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
    written = os.open(new, flags, mode=stat.S_IMODE(status.st_mode), dir_fd=place)
    with open(opened, "rb", closefd=False) as source, open(written, "wb") as target:
        shutil.copyfileobj(source, target, 2**20)
        target.flush()
        os.utime(written, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fchmod(written, stat.S_IMODE(status.st_mode))
