"""PathResolver: where a path of a backend lies in the file system, with a root or without.

A location is a name in a directory that is held open. Without a root the system opens the directory
by the caller's own path. Below a root it is reached one name at a time, so that no ``..``, absolute
path or link leads out, also if names are exchanged for links while an operation runs.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from polystore.error_translation import nothing_there
from polystore.exceptions import InvalidPathError
from polystore.filesystem.descent import Descent
from polystore.filesystem.dir_fd import REACH, Handle, Location, open_file
from polystore.paths import (
    MOST_LINKS,
    P,
    as_file_path,
    as_system_text,
    as_text,
    join,
    normalize,
    split,
)

__all__ = ["PathResolver", "RootedResolver", "SystemResolver"]

Make = Callable[[Location], object]
"""Makes the directory at a location, or raises `FileExistsError`."""


class PathResolver(ABC):
    """Where paths lead. Errors of the operating system are let through as they are."""

    root: str | None = None
    """The directory that the tree lies in; None if paths are those of the operating system."""

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
        """Return texts of which two are the same where two paths lead to the same location."""

    @abstractmethod
    def status(self, path: P) -> os.stat_result:
        """Return the status of what a path leads to through all links."""

    @abstractmethod
    def open(self, path: P) -> IO[bytes]:
        """Open the file that a path leads to for reading; nothing else, as `Location.open`."""

    @abstractmethod
    def resolve(self, path: P) -> AbstractContextManager[Handle]:
        """Yield what a path leads to through all links, held open."""

    @abstractmethod
    def resolve_nofollow(self, path: P) -> AbstractContextManager[Location]:
        """Yield the location of a path itself, which may be a link or missing."""

    @abstractmethod
    def resolve_for_write(
        self, path: P, *, make: Make | None = None
    ) -> AbstractContextManager[Location]:
        """Yield the location that a path leads to, which may be missing; `make` missing parents."""

    @abstractmethod
    def real(self, path: P) -> str:
        """Return the path of the operating system that a path leads to, for a link to hold."""

    @abstractmethod
    def steps(self, path: P) -> Iterator[Location]:
        """Yield each location on the way to a path, links followed, as far as it leads.

        The directory of a location is held open until the next one is asked for.
        """

    @abstractmethod
    def nearest(self, path: P) -> Handle:
        """Hold the directory that a path lies in, or the nearest on the way that exists."""


class SystemResolver(PathResolver):
    """Paths of the operating system.

    A slash at the end is dropped: with it, a link to a directory would be the directory.
    """

    def text(self, path: P) -> str:
        text = as_file_path(path)
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

    def status(self, path: P) -> os.stat_result:
        return os.stat(self.text(path))

    def open(self, path: P) -> IO[bytes]:
        return open_file(self.text(path))

    def resolve(self, path: P) -> Handle:
        return Handle.named(self.text(path))

    def resolve_nofollow(self, path: P) -> Location:
        text, name = os.path.split(self.text(path))
        if name == "..":
            text, name = f"{text}/..", "."
        return Handle.at(text or ".", os.O_DIRECTORY).location(name or ".")

    def resolve_for_write(self, path: P, *, make: Make | None = None) -> Location:
        text = self.text(path)
        if os.path.islink(text):
            text = os.path.realpath(text)
            if os.path.islink(text):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), text)
        if make is not None:
            text = _made_parents(text, make)
        return self.resolve_nofollow(text)

    def real(self, path: P) -> str:
        # Not normalised: a ".." after a link does not mean what it seems to.
        return os.path.join(os.getcwd(), self.text(path))

    def steps(self, path: P) -> Iterator[Location]:
        return _SYSTEM.steps_along(_names(self.real(path)), path)

    def nearest(self, path: P) -> Handle:
        return _SYSTEM.nearest_along(_names(self.real(path)), path)


class RootedResolver(PathResolver):
    """One virtual tree that lies in a directory, out of which nothing leads.

    - `root`: a directory, its links resolved; or one that is held open, whose links lead nowhere
      else
    """

    def __init__(self, root: str | Handle) -> None:
        self._held = root if isinstance(root, Handle) else None
        self.root: str = root.path if isinstance(root, Handle) else root

    def text(self, path: P) -> str:
        return normalize(as_system_text(path))

    def shown(self, target: str) -> str:
        relative = os.path.relpath(target, self.root)
        return target if relative.split("/")[0] == ".." else join(Path(relative).parts)

    def identities(self, paths: list[str]) -> list[str]:
        return [self.resolved(path) for path in paths]

    def resolved(self, path: P) -> str:
        try:
            with self._walk(path) as way:
                return self._named(way)
        except OSError:
            return self.real(path)

    def real(self, path: P) -> str:
        return self._named_as(split(as_system_text(path)))

    def status(self, path: P) -> os.stat_result:
        with self._walk(path) as way:
            if way.last is None:
                return way.status()
            status = way.location(way.last).status()
        if stat.S_ISLNK(status.st_mode):  # it was a file or a directory a moment ago
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), as_text(path))
        return status

    def open(self, path: P) -> IO[bytes]:
        with self._walk(path) as way:
            return way.location(way.last or ".").open()

    @contextmanager
    def resolve(self, path: P) -> Iterator[Handle]:
        with self._walk(path) as way:
            if way.last is not None:
                way.enter(way.last, flags=0)
            yield way

    @contextmanager
    def resolve_nofollow(self, path: P) -> Iterator[Location]:
        with self._walk(path, follow=False) as way:
            yield way.location(way.last or ".")

    @contextmanager
    def resolve_for_write(self, path: P, *, make: Make | None = None) -> Iterator[Location]:
        with self._walk(path, make=make) as way:
            yield way.location(way.last or ".")

    def steps(self, path: P) -> Iterator[Location]:
        return self.steps_along(split(as_system_text(path))[::-1], path)

    def nearest(self, path: P) -> Handle:
        return self.nearest_along(split(as_system_text(path))[::-1], path)

    def steps_along(self, ahead: list[str], path: P) -> Iterator[Location]:
        """As `steps`, of a path whose names are given, the last one first."""
        with _Way(self._held or self.root) as way, _as_far_as_it_leads():
            for name in self._along(way, ahead, path):
                yield way.location(name)

    def nearest_along(self, ahead: list[str], path: P) -> Handle:
        """As `nearest`, of a path whose names are given, the last one first."""
        with _Way(self._held or self.root) as way:
            with _as_far_as_it_leads():
                for _ in self._along(way, ahead, path):
                    pass
            return way.duplicate()

    def _named(self, way: _Way) -> str:
        return self._named_as(way.passed if way.last is None else [*way.passed, way.last])

    def _named_as(self, names: list[str]) -> str:
        return str(Path(self.root, *names))

    @contextmanager
    def _walk(self, path: P, *, follow: bool = True, make: Make | None = None) -> Iterator[_Way]:
        """Open every directory on the way to a path; links are read, and walked likewise."""
        with _Way(self._held or self.root) as way:
            ahead = split(as_system_text(path))[::-1]
            for _ in self._along(way, ahead, path, follow=follow, make=make):
                pass
            yield way

    def _along(
        self,
        way: _Way,
        ahead: list[str],
        path: P,
        *,
        follow: bool = True,
        make: Make | None = None,
    ) -> Iterator[str]:
        """Go along the names of a path, the last one first; yield each before it is gone to."""
        target: str | None
        links = 0
        while ahead:
            name = ahead.pop()
            if name == "..":
                if not way.leave_directory() and self.root != "/":
                    raise _escape(path)
                continue
            yield name
            if ahead:
                target = way.enter_directory(name, make=make)
                if target is None:
                    continue
            else:
                target = way.link(name) if follow else None
                if target is None:
                    way.last = name
                    return
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), as_text(path))
            if os.path.isabs(target):
                target = self._inside(target, path)
                way.restart()
            ahead += _names(target)

    def _inside(self, target: str, path: P) -> str:
        if self.root == "/":
            return target
        for known in (os.path.normpath(target), os.path.realpath(target)):
            if known == self.root or known.startswith(self.root.rstrip("/") + "/"):
                return known[len(self.root) :]
        raise _escape(path)


_SYSTEM = RootedResolver("/")
"""Where the paths of the system lie, to go along them one name at a time."""


class _Way(Descent):
    """The way from a root to a location: the last directory held open, and the name in it."""

    __slots__ = ("last", "passed")

    def __init__(self, root: Handle | str) -> None:
        super().__init__(root, REACH)
        self.passed: list[str] = []
        self.last: str | None = None

    def enter(self, name: str, flags: int = os.O_DIRECTORY) -> None:
        super().enter(name, flags)
        self.passed.append(name)
        self.name = name
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
                    make(self.location(name))
            except NotADirectoryError:
                target = self.link(name)
                if target is not None:
                    return target
                mode = self.location(name).status().st_mode
                if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
                    raise
                # Exchanged since for a directory, or for a link again: look once more.
            else:
                return None

    def link(self, name: str) -> str | None:
        """Return what a link holds, None for anything else."""
        try:
            return self.location(name).target()
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise

    def leave_directory(self) -> bool:
        """Go one directory up; False at the root, above which nothing is."""
        if not self.passed:
            return False
        self.leave()
        self.passed.pop()
        self.name = None
        return True

    def restart(self) -> None:
        super().restart()
        self.passed.clear()
        self.name = None


def _made_parents(text: str, make: Make) -> str:
    """Make what is missing above a path, and return the path, its dots resolved if there were."""
    missing = []
    parent = os.path.dirname(text)
    while parent and not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    if any(".." in directory.split("/")[-1:] for directory in missing):
        return _made_parents(os.path.realpath(text), make)
    for directory in reversed(missing):
        above, name = os.path.split(directory)
        with Handle.at(above or ".", os.O_DIRECTORY) as handle, suppress(FileExistsError):
            make(handle.location(name))
    return text


@contextmanager
def _as_far_as_it_leads() -> Iterator[None]:
    """End the block where a path leads to nothing, in a circle or out of a root."""
    with nothing_there(), suppress(InvalidPathError):
        yield


def _names(path: str) -> list[str]:
    """Return the names in a path, the last one first."""
    return [name for name in path.split("/")[::-1] if name not in ("", ".")]


def _escape(path: P) -> InvalidPathError:
    return InvalidPathError("a symbolic link leads out of the root", path=as_text(path))
