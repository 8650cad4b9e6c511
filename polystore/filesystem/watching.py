"""Watch a directory of a local tree: which of its paths are created, replaced and deleted.

An event is a difference between two looks at the directory. `watchfiles` says when and where to
look. What it cannot say (inotify drops events when it is overrun) a look at the whole finds later.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple, cast

import watchfiles

from polystore.arguments import seconds
from polystore.error_translation import located, nothing_there
from polystore.events import Event, Events
from polystore.exceptions import (
    InvalidPathError,
    PathNotFoundError,
    PathTypeError,
    StorageResolutionError,
)
from polystore.filesystem.descent import files_below
from polystore.filesystem.dir_fd import Handle, Location
from polystore.filesystem.listing import Listing
from polystore.filesystem.lookup import Lookup
from polystore.filesystem.retry import MOST_ATTEMPTS
from polystore.filesystem.temporaries import PREFIX, is_temporary
from polystore.paths import P

__all__ = ["Watch"]

_STEP = 50  # milliseconds without a change that end a burst
_BURST = 400  # milliseconds after which a burst is told that has no end
_WAIT = 100  # milliseconds for one step without a change
_COMPARED_EVERY = 10.0  # seconds between looks at the whole
_COMPARED_AFTER = 1.0  # seconds, after changes: watchfiles may drop what comes while it reports
_PAUSES = 50  # of the time that a look at the whole takes, until the next one


class _Found(NamedTuple):
    """What is at a path, and what differs as soon as its content does."""

    type: Literal["file", "directory", "symlink"]
    identity: tuple[int, ...]
    size: int | None = None


_Contents = dict[str, _Found]


class Watch(Events):
    """The events of a directory, from the moment at which the instance is made.

    - `path`: an existing directory
    - `lookup`: looks at what the paths of the tree lead to
    - `recursive`: whether to watch all levels below it
    - `timeout`: seconds without an event after which it ends; None for no end
    """

    def __init__(self, path: P, lookup: Lookup, *, recursive: bool, timeout: float | None) -> None:
        with located(path, lookup.backend):
            self._timeout = math.inf if timeout is None else seconds(timeout, "timeout")
        self._lookup, self._recursive = lookup, recursive
        self._path = lookup.text(path)
        self._number = 0
        self._compared_at = self._pause = 0.0
        self._has_changed = False
        self._last: float | None = time.monotonic()
        self._is_closed = False
        with lookup.directory(path) as handle:
            self._identity = handle.identity()
            self._real = os.path.realpath(handle.path)
        self._changes = self._begin()
        try:
            self._known = self._whole()
            self._check_exists()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the watch, and the thread that listens to the system."""
        self._is_closed = True
        self._changes.close()

    def _begin(self) -> Generator[set[tuple[watchfiles.Change, str]], None, None]:
        """Return an iterator over the changes that the system reports from now on."""
        changes = watchfiles.watch(
            self._real,
            watch_filter=None,
            debounce=_BURST,
            step=_STEP,
            rust_timeout=_WAIT,
            yield_on_timeout=True,
            # An array is a directory, also in one that is watched alone.
            recursive=self._recursive or self._lookup.values.has_directories,
            ignore_permission_denied=True,
        )
        with located(self._path, self._lookup.backend):
            try:
                next(changes)
            except FileNotFoundError:
                raise PathNotFoundError("no such file or directory") from None
            except (OSError, RuntimeError) as error:  # of watchfiles, where the system refuses
                raise StorageResolutionError(
                    f"the system does not watch this directory: {error}; raise the limits "
                    f"fs.inotify.max_user_watches, of directories, and max_user_instances, of "
                    f"watches, or set WATCHFILES_FORCE_POLLING=1"
                ) from error
        return changes

    # Steps

    def step(self) -> list[Event] | None:
        """Wait a moment for changes, and return their events; None after the end.

        Raises `PathNotFoundError` if the directory was deleted, moved or replaced by another one,
        after all that was in it has been told as deleted.
        """
        if self._is_closed:
            return None
        if self._last is None:
            self._last = time.monotonic()
        try:
            events = self._one_step()
            if not events and time.monotonic() - self._last >= self._timeout:
                # What was done before the end is told, also if the system has not reported it yet.
                events = self._compared()
                if not events:
                    self.close()
                    return None
        except BaseException:
            self.close()
            raise
        if events:
            self._last = None  # the timeout begins when more is asked for
        return events

    def _one_step(self) -> list[Event]:
        self._check_exists()
        try:
            changes = next(self._changes)
        except RuntimeError:  # of watchfiles, as for a name that is not text
            self._changes = self._begin()
            return self._compared()
        after = max(self._pause, _COMPARED_AFTER if self._has_changed else _COMPARED_EVERY)
        if time.monotonic() - self._compared_at >= after:
            return self._compared()
        self._has_changed |= bool(changes)
        paths = {self._concerned(path) for _, path in changes} - {None}
        return self._looked_at(cast("set[str]", paths))

    def _check_exists(self) -> None:
        if not self._known:
            raise PathNotFoundError(
                "the watched directory was deleted, moved or replaced; watch the path again",
                path=self._path,
                backend=self._lookup.backend,
            )

    def _concerned(self, path: str) -> str | None:
        """Return the path to look at for a change of a path of the system; None for temporaries."""
        names = os.path.relpath(path, self._real).split("/")
        if names == ["."]:
            return self._path
        if names[0] == ".." or any(map(is_temporary, names)):
            return None
        place = self._path
        for name in names if self._recursive else names[:2]:
            if self._lookup.values.is_hidden(name):
                return place  # they say what the directory is: a group or an array
            if not self._recursive and place != self._path:
                return place
            place = f"{place.rstrip('/')}/{name}"
            found = self._known.get(place)
            if found is not None and found.type == "symlink":
                # The system names a directory by the last link to it that was found.
                above, last = os.path.split(path)
                real = os.path.join(os.path.realpath(above), last)
                return place if real == path else self._concerned(real)
            if found is None or found.type != "directory":
                break  # new, or what is below it is a part of it, or not of this tree
        return place

    # Looks

    def _compared(self) -> list[Event]:
        """Look at the whole directory, and return how it differs from what was known."""
        before, self._known = self._known, self._whole()
        return self._told(before, self._known)

    def _whole(self) -> _Contents:
        """Return what is at the watched path and below; nothing if it is not there any more."""
        begun = time.monotonic()
        found = self._below(self._path)
        if found and found[self._path].identity != self._identity:
            found = {}
        self._compared_at = time.monotonic()
        self._pause = _PAUSES * (self._compared_at - begun)
        self._has_changed = False
        return found

    def _looked_at(self, paths: set[str]) -> list[Event]:
        """Look at some paths, and return how they differ from what was known."""
        if self._path in paths:
            return self._compared()
        before: _Contents = {}
        after: _Contents = {}
        gone: set[str] = set()  # directories
        new: set[str] = set()
        for path in sorted(paths):
            if _lies_in(path, gone) or _lies_in(path, new):
                continue
            was, now = self._known.get(path), _look(path, self._lookup)
            before |= {} if was is None else {path: was}
            after |= {} if now is None else {path: now}
            if was and now and was[:2] == now[:2]:
                continue
            if was is not None and was.type == "directory":
                gone.add(path)
            if now is not None and now.type == "directory":
                new.add(path)
                after |= self._below(path) if self._recursive else {}
        if gone:
            before |= {path: each for path, each in self._known.items() if _lies_in(path, gone)}
        for path in before:
            del self._known[path]
        self._known |= after
        return self._told(before, after)

    def _below(self, path: str) -> _Contents:
        """Return what is at a directory and below; nothing if it is none any more."""
        listing = _Looks(path, self._lookup)
        with suppress(PathNotFoundError, PathTypeError), self._lookup.directory(path) as handle:
            listing.add_directory(path, handle)
            listing.walk(handle, recursive=self._recursive)
        return listing.found

    def _told(self, before: _Contents, after: _Contents) -> list[Event]:
        events = []
        for kind, path, found in _differences(before, after):
            self._number += 1
            events.append(Event(kind, path, self._number, found.type, size=found.size))
        return events


class _Looks(Listing):
    """A listing that looks at all that it finds."""

    def __init__(self, top: str, lookup: Lookup) -> None:
        super().__init__(top, lookup)
        self.found: _Contents = {}

    def add_directory(self, path: str, directory: Handle) -> None:
        self.found[path] = _Found("directory", directory.identity())

    def add_array(self, path: str) -> None:
        found = _look(path, self._lookup)
        if found is not None:
            self.found[path] = found

    def add_file(self, path: str, entry: os.DirEntry[str]) -> None:
        with suppress(FileNotFoundError):  # deleted concurrently
            found = _found(entry.stat(follow_symlinks=False))
            if found is not None:
                self.found[path] = found

    add_link = add_file


def _look(path: str, lookup: Lookup) -> _Found | None:
    """Look at a path itself, no link followed; None for nothing, or for what is no value."""
    for _ in range(MOST_ATTEMPTS):
        with (
            lookup.read_errors(path),
            nothing_there(),
            suppress(InvalidPathError),
            lookup.resolver.resolve_nofollow(path) as location,
        ):
            status = location.status()
            if not stat.S_ISDIR(status.st_mode):
                return _found(status)
            with suppress(OSError):  # it was replaced while it was looked at
                return _directory(location, lookup)
            continue
        return None
    raise StorageResolutionError(
        "the path changes faster than it can be looked at", path=path, backend=lookup.backend
    )


def _directory(location: Location, lookup: Lookup) -> _Found:
    with location.hold(os.O_RDONLY | os.O_DIRECTORY) as handle:
        identity = handle.identity()
        if not lookup.values.is_array(handle):
            return _Found("directory", identity)
        parts = 0
        for name, status in files_below(handle):
            if PREFIX not in name:
                found = cast("_Found", _found(status))
                parts ^= hash((name, found.identity))
        return _Found("file", (*identity, parts))


def _found(status: os.stat_result) -> _Found | None:
    """Return what a status says of anything but a directory."""
    identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    if stat.S_ISLNK(status.st_mode):
        return _Found("symlink", identity)
    # Not the time at which the status changed: a new mode is no new value.
    return _Found("file", identity, status.st_size) if stat.S_ISREG(status.st_mode) else None


def _lies_in(path: str, directories: set[str]) -> bool:
    above = path.rpartition("/")[0]
    while above:
        if above in directories:
            return True
        above = above.rpartition("/")[0]
    return False


def _differences(before: _Contents, after: _Contents) -> Iterator[tuple[Any, str, _Found]]:
    """Yield what was deleted, then what was created or replaced.

    What is in a directory is deleted before it, and created after it.
    """
    for path in sorted(before, reverse=True):
        was, now = before[path], after.get(path)
        if now is None or now.type != was.type:
            yield "deleted", path, was._replace(size=None)
    for path in sorted(after):
        found, known = after[path], before.get(path)
        if known is None or known.type != found.type:
            yield "created", path, found
        elif known.identity != found.identity and found.type != "directory":
            yield "replaced", path, found
