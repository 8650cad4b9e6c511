"""Copies and deletions of trees on a local file system, of any depth, that follow no link."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress

from polystore.filesystem.descent import Descent, visit
from polystore.filesystem.dir_fd import LISTABLE, REACH, Handle, Location, is_special
from polystore.filesystem.retry import MOST_ATTEMPTS

__all__ = ["copy_tree", "delete_tree", "sync_tree"]


def copy_tree(origin: Location, target: Location, skip: Callable[[str], bool]) -> None:
    """Copy a file, a link as a link, or a tree to a free location.

    Modes and times are kept. Names that `skip` accepts are left out.

    Raises `FileNotFoundError` also if a part of it went, or a directory was replaced by another,
    while it was copied; `OSError` also for what is neither file, link nor directory, such as a
    socket.
    """
    with Descent(origin.directory, REACH) as source, Descent(target.directory, REACH) as location:
        # What is still to be copied in each directory from the top to where the walk stands.
        waiting = [[origin.name]]
        entered: list[str] = []
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                if waiting:
                    _finish_directory(source, location, entered.pop())
                continue
            child = waiting[-1].pop()
            old = source.location(child)
            new = location.location(target.name if len(waiting) == 1 else child)
            status = old.status()
            if stat.S_ISDIR(status.st_mode):
                new.make_directory(0o700)
                source.enter(old.name)
                location.enter(new.name)
                entered.append(child)
                waiting.append([each for each in source.names() if not skip(each)])
            elif stat.S_ISLNK(status.st_mode):
                new.make_link(old.target())
            elif is_special(status):
                raise OSError(errno.EINVAL, f"{child!r} is neither file, link nor directory", child)
            else:
                _copy_file(old, new)


def _finish_directory(source: Descent, location: Descent, name: str) -> None:
    """Leave a copied directory, and give the copy the mode and times of what it is a copy of."""
    status = source.status()
    copied = os.open(".", LISTABLE, dir_fd=location.descriptor)
    try:
        source.leave()
        location.leave()
        if not os.path.samestat(source.location(name).status(), status):
            raise FileNotFoundError(errno.ENOENT, "it was replaced while it was copied", name)
        _keep_times_and_mode(copied, status)
    finally:
        os.close(copied)


def _copy_file(old: Location, new: Location) -> None:
    with old.open() as data:
        status = os.fstat(data.fileno())
        with new.create(stat.S_IMODE(status.st_mode)) as copy:
            shutil.copyfileobj(data, copy, 2**20)
            copy.flush()
            _keep_times_and_mode(copy.fileno(), status)


def _keep_times_and_mode(descriptor: int, status: os.stat_result) -> None:
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def delete_tree(location: Location) -> None:
    """Delete a directory and all that is in it, also while others make and delete in it."""
    for _ in range(MOST_ATTEMPTS):
        try:
            _delete_tree(location)
        except FileNotFoundError:
            if location.exists():
                continue  # what was to be deleted was moved or deleted
        return
    _delete_tree(location)


def _delete_tree(location: Location) -> None:
    with Descent(location.directory, REACH) as walk:
        # What is still to be deleted in each directory from the top to where the walk stands.
        waiting = [[location.name]]
        inside: list[str] = []
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                if inside:
                    name = inside.pop()
                    walk.leave()
                    if not _removed(walk.location(name)):
                        waiting[-1].append(name)  # something was put into it: once more
                continue
            child = walk.location(waiting[-1].pop())
            if child.is_directory():
                walk.enter(child.name)
                inside.append(child.name)
                waiting.append(walk.names())
            else:
                with suppress(FileNotFoundError):
                    child.remove_file()


def _removed(location: Location) -> bool:
    try:
        location.remove_directory()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def sync_tree(directory: Handle) -> None:
    """Make all files and names in a directory survive the loss of power."""
    with Descent(directory) as walk:
        for path, status in visit(walk):
            if stat.S_ISDIR(status.st_mode):
                walk.sync()
            elif stat.S_ISREG(status.st_mode):
                with suppress(FileNotFoundError):  # it was deleted concurrently
                    walk.location(os.path.basename(path)).sync()
