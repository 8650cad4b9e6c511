"""Files and directories held open: the one module that touches what lies in the file system.

What is held open stays the same when it is renamed, and nothing reaches another directory from it
but by one name at a time, through no link. So no exchange of names for links leads an operation
astray. Which directory is opened first is for `polystore.filesystem.path_resolver` to say.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Self

from polystore.exceptions import UnsupportedFormatError

__all__ = ["LISTABLE", "REACH", "Handle", "Location", "check_no_device", "is_special", "open_file"]

_HAS_PATHS = os.path.isdir("/proc/self/fd")
"""Whether what is held open has a path of its own, as on Linux."""

# Nothing waits for a pipe, and no program that is started inherits what is held.
REACH = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_CLOEXEC
LISTABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
_READABLE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Handle:
    """A file, a directory or anything else that is held open.

    - `descriptor`: an open file, which is closed with this
    - `shown`: a path that leads to it, for systems that have none for what is held open
    - `name`: the path or the last name by which it was opened, unless that is a link
    """

    __slots__ = ("descriptor", "name", "shown")

    def __init__(self, descriptor: int, shown: str = "", name: str | None = None) -> None:
        self.descriptor, self.shown, self.name = descriptor, shown, name

    @classmethod
    def at(cls, path: str, flags: int = 0) -> Self:
        """Hold what a path of the system leads to, through links too."""
        return cls(os.open(path, REACH | flags), path)

    @classmethod
    def named(cls, path: str) -> Self:
        """Hold what a path leads to, and keep its name unless that is a link."""
        try:
            descriptor = os.open(path, REACH | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.ELOOP:  # as systems say that cannot open the link itself
                raise
            return cls.at(path)
        if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
            return cls(descriptor, path, path)
        os.close(descriptor)
        return cls.at(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.descriptor)

    @property
    def path(self) -> str:
        """A path that is this very file or directory, also after a rename."""
        return f"/proc/self/fd/{self.descriptor}" if _HAS_PATHS else self.shown

    def status(self) -> os.stat_result:
        return os.fstat(self.descriptor)

    def identity(self) -> tuple[int, int]:
        """Return what tells it from everything else that exists at the same time."""
        return _identity(self.status())

    def is_file(self) -> bool:
        return stat.S_ISREG(self.status().st_mode)

    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status().st_mode)

    def open(self) -> IO[bytes]:
        """Open it for reading, if it is a file.

        Raises `UnsupportedFormatError` if it is a pipe, a socket or a device; `IsADirectoryError`
        if it is a directory.
        """
        _check_file(self.status())
        return os.fdopen(os.open(self.path, _READABLE), "rb")

    def duplicate(self) -> Handle:
        """Hold it once more, to be closed on its own."""
        return Handle(os.dup(self.descriptor), self.shown)

    def location(self, name: str = ".") -> Location:
        """Return the location of a name in this directory, or of the directory itself."""
        return Location(self, name)

    def names(self) -> list[str]:
        """Return the names in this directory."""
        descriptor = self._listable()
        try:
            return os.listdir(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def entries(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        """Yield the entries of this directory."""
        with self.listable() as descriptor, os.scandir(descriptor) as entries:
            yield entries

    def upwards(self) -> Iterator[Handle]:
        """Yield this directory and each one above it, held open until the next is asked for."""
        here = self.duplicate()
        try:
            while True:
                yield here
                above = os.open("..", REACH | os.O_DIRECTORY, dir_fd=here.descriptor)
                below, here = here, Handle(above, os.path.dirname(here.shown))
                is_top = below.identity() == here.identity()
                below.close()
                if is_top:
                    return
        finally:
            here.close()

    def lies_in(self, other: tuple[int, int]) -> bool:
        """Return whether this directory is the one of this identity, or somewhere below it."""
        return any(each.identity() == other for each in self.upwards())

    def sync(self) -> None:
        """Make the names in this directory survive the loss of power."""
        with self.listable() as descriptor:
            os.fsync(descriptor)

    def _listable(self) -> int:
        return os.open(".", LISTABLE, dir_fd=self.descriptor)

    @contextmanager
    def listable(self) -> Iterator[int]:
        descriptor = self._listable()
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class Location:
    """A name in a directory that is held open, whatever has this name, if anything has.

    A link is never followed: where something else is asked for, it raises `OSError` (``ELOOP``).
    As a context manager, it closes the directory at the end.

    - `name`: one name, or ``"."`` for the directory itself
    """

    __slots__ = ("directory", "name")

    def __init__(self, directory: Handle, name: str) -> None:
        if "/" in name or name in ("", ".."):
            raise ValueError(f"{name!r} is not one name in a directory")
        self.directory, self.name = directory, name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.directory.close()

    def sibling(self, name: str) -> Location:
        return Location(self.directory, name)

    # What is there

    def status(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.directory.descriptor, follow_symlinks=False)

    def exists(self) -> bool:
        try:
            self.status()
        except FileNotFoundError:
            return False
        return True

    def identity(self) -> tuple[int, int] | None:
        """Return what tells apart two things that have the name one after another."""
        try:
            return _identity(self.status())
        except OSError:
            return None

    def is_directory(self) -> bool:
        return self._has(stat.S_ISDIR)

    def is_link(self) -> bool:
        return self._has(stat.S_ISLNK)

    def _has(self, kind: Any) -> bool:
        try:
            return bool(kind(self.status().st_mode))
        except FileNotFoundError:
            return False

    def target(self) -> str:
        """Return what a link holds."""
        return os.readlink(self.name, dir_fd=self.directory.descriptor)

    # What is there, opened

    def hold(self, flags: int = REACH) -> Handle:
        """Hold what is there open; a directory, if the flags say so."""
        descriptor = self._opened(flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        # Opening for its path alone lets a link be, unless it is to be a directory.
        if not flags & os.O_DIRECTORY and stat.S_ISLNK(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.name)
        return Handle(descriptor, os.path.join(self.directory.shown, self.name))

    def open(self) -> IO[bytes]:
        """Open a file for reading, as `open_file`."""
        return open_file(self.name, _READABLE | os.O_NOFOLLOW, self.directory.descriptor)

    def create(self, mode: int = 0o666) -> IO[bytes]:
        """Make a file, which does not exist yet, and open it for writing."""
        descriptor = self._opened(_NEW, mode)
        shown = os.path.join(self.directory.shown, self.name)  # as the file's attribute `name`
        return open(shown, "w+b", opener=lambda *_: descriptor)

    def lock_file(self) -> int:
        """Return the descriptor of a file to lock, made where it is missing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return self._opened(flags, 0o666)

    def _opened(self, flags: int, mode: int = 0o777) -> int:
        return os.open(self.name, flags, mode, dir_fd=self.directory.descriptor)

    # Changes

    def write(self, data: bytes) -> None:
        """Make a file that holds these bytes."""
        with self.create() as file:
            file.write(data)

    def make_directory(self, mode: int = 0o777) -> None:
        os.mkdir(self.name, mode, dir_fd=self.directory.descriptor)

    def make_link(self, target: str) -> None:
        os.symlink(target, self.name, dir_fd=self.directory.descriptor)

    def remove_file(self) -> None:
        """Remove a file, a link, or anything else but a directory."""
        os.unlink(self.name, dir_fd=self.directory.descriptor)

    def remove_directory(self) -> None:
        """Remove an empty directory."""
        os.rmdir(self.name, dir_fd=self.directory.descriptor)

    def rename(self, other: Location) -> None:
        """Rename, in the place of what is there if both are files or links."""
        os.replace(
            self.name,
            other.name,
            src_dir_fd=self.directory.descriptor,
            dst_dir_fd=other.directory.descriptor,
        )

    def link(self, other: Location) -> None:
        """Add a second name to a file, which is free."""
        os.link(
            self.name,
            other.name,
            src_dir_fd=self.directory.descriptor,
            dst_dir_fd=other.directory.descriptor,
            follow_symlinks=False,
        )

    def sync(self) -> None:
        """Make what was written to a file survive the loss of power."""
        with self.open() as file:
            os.fsync(file.fileno())

    def set_mode(self, mode: int, kind: int) -> None:
        """Set the mode bits of a file or a directory, if it is of this kind."""
        descriptor = self._opened(_READABLE | os.O_NOFOLLOW)
        try:
            if stat.S_IFMT(os.fstat(descriptor).st_mode) == kind:
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)


def open_file(path: str, flags: int = _READABLE, directory: int | None = None) -> IO[bytes]:
    """Open a file for reading, and nothing but a file.

    Raises `UnsupportedFormatError` if the path leads to a pipe, a socket or a device;
    `IsADirectoryError` if it leads to a directory.
    """
    descriptor = os.open(path, flags, dir_fd=directory)
    try:
        _check_file(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def is_special(status: os.stat_result) -> bool:
    """Return whether it is a pipe, a socket or a device."""
    mode = status.st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def check_no_device(status: os.stat_result) -> None:
    """Refuse anything but a file, a directory or a link.

    Raises `UnsupportedFormatError` if it is a pipe, a socket or a device.
    """
    if is_special(status):
        raise UnsupportedFormatError("the path is a pipe, a socket or a device")


def _check_file(status: os.stat_result) -> None:
    check_no_device(status)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
