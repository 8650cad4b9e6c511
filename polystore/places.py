"""Places: where a path of a backend lies in the file system, with a root or without.

A place is a path that the operating system is given. Without a root it is the caller's own. Below
a root it goes through a directory, or a file, that is held open and was reached from the root one
name at a time, so that no ``..``, absolute path or link leads out, also if names are exchanged for
links while an operation runs. That needs ``/proc/self/fd`` (Linux); elsewhere the way is walked
and checked as carefully, and then used by name.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from polystore.descent import HELD, Descent
from polystore.exceptions import InvalidPathError
from polystore.paths import MOST_LINKS, P, as_text, join, normalize, split

__all__ = ["Places", "RootedPlaces", "SystemPlaces"]

Make = Callable[[str], object]
"""Makes the directory of a place, or raises `FileExistsError`."""

_REACH = getattr(os, "O_PATH", os.O_RDONLY)


class Places(ABC):
    """Where paths lead. Errors of the operating system are let through as they are."""

    @abstractmethod
    def text(self, path: P) -> str:
        """Return a path as results show it."""

    @abstractmethod
    def shown(self, target: str) -> str:
        """Return a path of the operating system as a path of the backend."""

    @abstractmethod
    def resolved(self, path: P) -> str:
        """Return a name of what a path leads to, its last links followed; for comparing only."""

    @abstractmethod
    def identities(self, paths: list[str]) -> list[str]:
        """Return texts of which two are the same where two paths lead to the same place."""

    @abstractmethod
    def existing(self, path: P) -> AbstractContextManager[str]:
        """Give the place that a path leads to through all links."""

    @abstractmethod
    def itself(self, path: P) -> AbstractContextManager[str]:
        """Give the place of a path itself, which may be a link or missing."""

    @abstractmethod
    def slot(self, path: P, *, make: Make | None = None) -> AbstractContextManager[str]:
        """Give the place that a path leads to, which may be missing; `make` missing parents."""

    @abstractmethod
    def real(self, path: P) -> str:
        """Return the path of the operating system that a path leads to, for a link to hold."""


class SystemPlaces(Places):
    """Paths of the operating system.

    A slash at the end is dropped: with it, a link to a directory would be the directory.
    """

    def text(self, path: P) -> str:
        text = _encodable(path)
        while text.endswith(("/", "/.")) and text != "/":
            text = text.rstrip("/").removesuffix("/.") or "/"
        return text

    def shown(self, target: str) -> str:
        return target

    def resolved(self, path: P) -> str:
        text = self.text(path)
        return os.path.realpath(text) if os.path.islink(text) else text

    def identities(self, paths: list[str]) -> list[str]:
        parents: dict[str, str] = {}
        found = []
        for path in paths:
            text = self.text(path)
            if os.path.islink(text):
                found.append(os.path.realpath(text))
                continue
            parent, name = os.path.split(text)
            if parent not in parents:
                parents[parent] = os.path.realpath(parent)
            found.append(f"{parents[parent]}/{name}")
        return found

    @contextmanager
    def existing(self, path: P) -> Iterator[str]:
        yield self.text(path)

    @contextmanager
    def itself(self, path: P) -> Iterator[str]:
        yield self.text(path)

    @contextmanager
    def slot(self, path: P, *, make: Make | None = None) -> Iterator[str]:
        place = self.text(path)
        if os.path.islink(place):
            place = os.path.realpath(place)
            if os.path.islink(place):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place)
        if make is not None and not os.path.isdir(os.path.dirname(place) or "."):
            place = os.path.realpath(place)
            _make_parents(place, make)
        yield place

    def real(self, path: P) -> str:
        # Not normalised: a ".." after a link does not mean what it seems to.
        return os.path.join(os.getcwd(), self.text(path))


class RootedPlaces(Places):
    """One virtual tree that lies in a directory, out of which nothing leads.

    Parameters
    ----------
    root : str
        A directory, its links resolved.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def text(self, path: P) -> str:
        return normalize(_encodable(path))

    def shown(self, target: str) -> str:
        relative = os.path.relpath(target, self.root)
        return target if relative.startswith("..") else join(Path(relative).parts)

    def identities(self, paths: list[str]) -> list[str]:
        return [self.resolved(path) for path in paths]

    def resolved(self, path: P) -> str:
        try:
            with self._walk(path) as way:
                return self._named(way)
        except OSError:
            return self.real(path)

    def real(self, path: P) -> str:
        return self._named_as(split(_encodable(path)))

    @contextmanager
    def existing(self, path: P) -> Iterator[str]:
        with self._walk(path) as way:
            if way.last is not None:
                way.enter(way.last, flags=0)
            yield self._place(way)

    @contextmanager
    def itself(self, path: P) -> Iterator[str]:
        with self._walk(path, follow=False) as way:
            # The name of the root's own descriptor would be a link to it.
            yield f"{way.here()}/." if way.last is None else self._place(way)

    @contextmanager
    def slot(self, path: P, *, make: Make | None = None) -> Iterator[str]:
        with self._walk(path, make=make) as way:
            yield self._place(way)

    def _place(self, way: _Way) -> str:
        return way.here() if way.last is None else f"{way.here()}/{way.last}"

    def _named(self, way: _Way) -> str:
        return self._named_as(way.names if way.last is None else [*way.names, way.last])

    def _named_as(self, names: list[str]) -> str:
        return str(Path(self.root, *names))

    @contextmanager
    def _walk(self, path: P, *, follow: bool = True, make: Make | None = None) -> Iterator[_Way]:
        """Open every directory on the way to a path; links are read, and walked likewise."""
        ahead: list[str] = split(_encodable(path))[::-1]
        target: str | None
        way = _Way(self.root)
        try:
            links = 0
            while ahead:
                name = ahead.pop()
                if name == "..":
                    way.leave_for(path)
                    continue
                if ahead:
                    target = way.enter_directory(name, make=make)
                    if target is None:
                        continue
                else:
                    target = way.link(name) if follow else None
                    if target is None:
                        way.last = name
                        break
                links += 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), as_text(path))
                if os.path.isabs(target):
                    target = self._inside(target, path)
                    way.start_again()
                ahead.extend(part for part in target.split("/")[::-1] if part not in ("", "."))
            yield way
        finally:
            way.close()

    def _inside(self, target: str, path: P) -> str:
        for known in (os.path.normpath(target), os.path.realpath(target)):
            if known == self.root or known.startswith(self.root.rstrip("/") + "/"):
                return known[len(self.root) :]
        raise _escape(path)


class _Way(Descent):
    """The way from a root to a place: the last directory held open, and the place's name in it."""

    def __init__(self, root: str) -> None:
        super().__init__(root, _REACH)
        self.root = root
        self.names: list[str] = []
        self.last: str | None = None

    def enter(self, name: str, flags: int = os.O_DIRECTORY) -> None:
        super().enter(name, flags)
        self.names.append(name)
        self.last = None

    def enter_directory(self, name: str, *, make: Make | None) -> str | None:
        """Enter a directory, or return what a link holds that is in its place."""
        while True:
            try:
                self.enter(name)
            except FileNotFoundError:
                if make is None:
                    raise
                with suppress(FileExistsError):
                    make(f"{self.here()}/{name}")
            except NotADirectoryError:
                target = self.link(name)
                if target is not None:
                    return target
                status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode) and not stat.S_ISLNK(status.st_mode):
                    raise
                # Exchanged since for a directory, or for a link again: look once more.
            else:
                return None

    def link(self, name: str) -> str | None:
        """Return what a link holds, None for anything else."""
        try:
            return os.readlink(name, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise

    def here(self) -> str:
        """Return the last directory, as a path through what is held open."""
        if HELD:
            return f"/proc/self/fd/{self.descriptor}"
        return str(Path(self.root, *self.names))

    def leave_for(self, path: P) -> None:
        """Go one directory up on the way to `path`, never above the root."""
        if not self.names:
            raise _escape(path)
        self.leave()
        self.names.pop()

    def start_again(self) -> None:
        self.restart(self.root)
        self.names.clear()


def _make_parents(place: str, make: Make) -> None:
    missing = []
    parent = os.path.dirname(place)
    while parent and not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    for directory in reversed(missing):
        with suppress(FileExistsError):
            make(directory)


def _encodable(path: P) -> str:
    text = as_text(path)
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InvalidPathError(
            f"the path cannot be encoded for the file system ({error.reason})", path=text
        ) from error
    return text


def _escape(path: P) -> InvalidPathError:
    return InvalidPathError("a symbolic link leads out of the root", path=as_text(path))
