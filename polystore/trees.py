"""Copies and deletions of trees on a local file system, of any depth, that follow no link."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress

from polystore.attempts import MOST_ATTEMPTS
from polystore.descent import Descent

__all__ = ["copy_tree", "delete_tree"]


def copy_tree(origin: str, target: str, skip: Callable[[str], bool]) -> None:
    """Copy a file, a link as a link, or a tree to a path that is free.

    Modes and times are kept. Names that `skip` accepts are left out.

    Raises
    ------
    FileNotFoundError
        Also if a part of it went, or a directory was replaced by another, while it was copied.
    OSError
        Also for what is neither file, link nor directory, such as a socket.
    """
    with (
        Descent(os.path.dirname(origin) or ".") as source,
        Descent(os.path.dirname(target) or ".") as place,
    ):
        name, new = os.path.basename(origin), os.path.basename(target)
        # What is still to be copied in each directory from the top to where the walk stands.
        waiting = [[name]]
        entered: list[str] = []
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                if waiting:
                    _finish_directory(source, place, entered.pop())
                continue
            child = waiting[-1].pop()
            arriving = new if len(waiting) == 1 else child
            status = os.stat(child, dir_fd=source.descriptor, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(arriving, 0o700, dir_fd=place.descriptor)
                source.enter(child)
                place.enter(arriving)
                entered.append(child)
                waiting.append([each for each in os.listdir(source.descriptor) if not skip(each)])
            elif stat.S_ISLNK(status.st_mode):
                held = os.readlink(child, dir_fd=source.descriptor)
                os.symlink(held, arriving, dir_fd=place.descriptor)
            elif stat.S_ISREG(status.st_mode):
                _copy_file(source.descriptor, child, place.descriptor, arriving)
            else:
                raise OSError(errno.EINVAL, f"{child!r} is neither file, link nor directory", child)


def _finish_directory(source: Descent, place: Descent, name: str) -> None:
    """Leave a copied directory, and give the copy the mode and times of what it is a copy of."""
    status = os.fstat(source.descriptor)
    copied = os.dup(place.descriptor)
    try:
        source.leave()
        place.leave()
        now = os.stat(name, dir_fd=source.descriptor, follow_symlinks=False)
        if not os.path.samestat(now, status):
            raise FileNotFoundError(errno.ENOENT, "it was replaced while it was copied", name)
        os.utime(copied, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fchmod(copied, stat.S_IMODE(status.st_mode))
    finally:
        os.close(copied)


def _copy_file(source: int, name: str, place: int, new: str) -> None:
    # Opened without following a link that may have come since, or waiting at a pipe.
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
    with open(opened, "rb") as data:
        status = os.fstat(opened)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        written = os.open(new, flags, mode=stat.S_IMODE(status.st_mode), dir_fd=place)
        with open(written, "wb") as copy:
            shutil.copyfileobj(data, copy, 2**20)
            copy.flush()
            os.utime(written, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fchmod(written, stat.S_IMODE(status.st_mode))


def delete_tree(directory: str) -> None:
    """Delete a directory and all that is in it, also while others make and delete in it."""
    for _ in range(MOST_ATTEMPTS):
        try:
            _delete_tree(directory)
        except FileNotFoundError:
            if os.path.lexists(directory):
                continue  # what was to be deleted was moved or deleted
        return
    _delete_tree(directory)


def _delete_tree(directory: str) -> None:
    with Descent(os.path.dirname(directory) or ".") as walk:
        # What is still to be deleted in each directory from the top to where the walk stands.
        waiting = [[os.path.basename(directory)]]
        inside: list[str] = []
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                if inside:
                    name = inside.pop()
                    walk.leave()
                    if not _removed(name, walk.descriptor):
                        waiting[-1].append(name)  # something was put into it: once more
                continue
            child = waiting[-1].pop()
            if _is_directory(child, walk.descriptor):
                walk.enter(child)
                inside.append(child)
                waiting.append(os.listdir(walk.descriptor))
            else:
                with suppress(FileNotFoundError):
                    os.unlink(child, dir_fd=walk.descriptor)


def _is_directory(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _removed(name: str, parent: int) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True
