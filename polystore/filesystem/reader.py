"""The reading half of backends on a local file system: where paths lead, questions, listings."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from polystore.base import DataSource
from polystore.error_translation import located, missing_below_files, nothing_there, os_errors
from polystore.exceptions import (
    PathIsDirectoryError,
    PathNotDirectoryError,
    StorageError,
    StorageResolutionError,
)
from polystore.filesystem.descent import Descent
from polystore.filesystem.dir_fd import Held, Place, check_no_device
from polystore.filesystem.path_resolver import Places, RootedPlaces, SystemPlaces
from polystore.filesystem.temporaries import is_temporary
from polystore.paths import NameFilter, P, as_text, display, file_order
from polystore.registration import BackendBase
from polystore.stat import Stat

__all__ = ["LocalSource"]

D = TypeVar("D")
T = TypeVar("T")

_SETTLED_AFTER = 2.0  # seconds: what the coarsest file systems count in


class LocalSource(BackendBase, DataSource):
    """Where paths lead on a local file system, and what is there.

    Parameters
    ----------
    root : str or os.PathLike, optional
        Without it, paths are those of the operating system. With it, paths form one tree rooted
        at ``/``, as in the memory backend, that lies in this directory, and nothing outside it
        can be reached, not by ``..``, an absolute path or a symbolic link.
    """

    _directories_are_values = False
    """Whether a directory can be a value."""

    def __init__(self, root: P | None = None) -> None:
        self._places: Places = SystemPlaces()
        self._top = ""
        if root is not None:
            top = os.path.realpath(self._text(root))
            with self._os_errors(top):
                Path(top).mkdir(parents=True, exist_ok=True)
            self._places, self._top = RootedPlaces(top), top

    @classmethod
    def portable_path(cls, path: P, /, root: P | None = None, **options: Any) -> str:
        text = as_text(path, backend=cls._backend_type)
        if root is not None:
            return text  # one tree, whatever directory a process works in
        # Not normalised: a ".." after a link does not mean what it seems to.
        return str(Path.cwd() / text) if not Path(text).is_absolute() else text

    @classmethod
    def portable_options(cls, **options: Any) -> dict[str, Any]:
        root = options.get("root")
        return options if root is None else options | {"root": cls.portable_path(root)}

    # What a value is

    def _is_array(self, directory: Held) -> bool:
        """Return whether a directory is a value."""
        return False

    def _describe(self, held: Held, path: P) -> dict[str, Any]:
        """Return what `stat` says of a value beside its time."""
        return {"size": held.status().st_size}

    def _is_hidden(self, name: str) -> bool:
        """Tell whether listings leave a name out."""
        return is_temporary(name)

    def _file_identity(self, path: P) -> tuple[int, ...] | None:
        """Return what differs as soon as the content of a file does, None if nothing is known to.

        Nothing is known of a file that was changed a moment ago: the next change could bear the
        same time. Without the time of the last change of its status, one could be made unseen,
        since the other time can be set.
        """
        try:
            # Opened, since a network file system answers other questions from what it knows.
            with self._places.existing(path) as held, held.open() as file:
                status = os.fstat(file.fileno())
        except (OSError, StorageError):
            return None  # a directory, or what cannot be read: load reports it
        if time.time() - max(status.st_mtime, status.st_ctime) < _SETTLED_AFTER:
            return None
        facts = (status.st_dev, status.st_ino, status.st_size)
        return *facts, status.st_mtime_ns, status.st_ctime_ns

    # Asking

    def exists(self, path: P) -> bool:
        return self._status(path) is not None

    def is_file(self, path: P) -> bool:
        status = self._status(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return status is not None and stat.S_ISREG(status.st_mode)
        return self._directories_are_values and self._asked(path, self._is_value, False)

    def is_dir(self, path: P) -> bool:
        status = self._status(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return False
        return not self._directories_are_values or self._asked(path, self._is_directory, False)

    def is_symlink(self, path: P) -> bool:
        with self._read_errors(path), nothing_there(), self._places.itself(path) as place:
            return place.is_link()
        return False

    def _status(self, path: P) -> os.stat_result | None:
        """Return the status of what a path leads to, None where nothing is."""
        with self._read_errors(path), nothing_there():
            return self._places.status(path)
        return None

    def _asked(self, path: P, question: Callable[[Held], T], otherwise: D) -> T | D:
        """Ask of what a path leads to, held open; where nothing is, the answer is `otherwise`."""
        with self._read_errors(path), nothing_there(), self._places.existing(path) as held:
            return question(held)
        return otherwise

    def _is_value(self, held: Held) -> bool:
        mode = held.status().st_mode
        return stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and self._is_array(held))

    def _is_directory(self, held: Held) -> bool:
        return held.is_directory() and not self._is_array(held)

    def _has_directory(self, place: Place) -> bool:
        """Return whether a directory is at a place, no link followed."""
        try:
            with place.hold() as held:
                return self._is_directory(held)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return False

    def _has_value(self, place: Place) -> bool:
        """Return whether a value is at a place, no link followed."""
        try:
            with place.hold() as held:
                return self._is_value(held)
        except FileNotFoundError:
            return False

    def stat(self, path: P) -> Stat:
        missing = {"type": "missing", "path": self._text(path), "exists": False}
        target = self._target(path)
        link = {} if target is None else {"type": "symlink", "target": target}
        found = self._asked(path, partial(self._facts, path), {})
        return cast("Stat", missing | found | link)

    def _facts(self, path: P, held: Held) -> dict[str, Any]:
        """Return what `stat` says of what exists."""
        status, is_value = held.status(), self._is_value(held)
        is_directory = stat.S_ISDIR(status.st_mode) and not is_value
        return {
            "type": "directory" if is_directory else "file",
            "exists": True,
            "modified": status.st_mtime,
            **(self._describe(held, path) if is_value else {}),
        }

    def _target(self, path: P) -> str | None:
        """Return where a link leads, None for anything else."""
        with self._read_errors(path), nothing_there(), self._places.itself(path) as place:
            if not place.is_link():
                return None
            target = place.target()
            if not os.path.isabs(target):
                target = os.path.join(os.path.dirname(self._places.real(path)), target)
            return self._places.shown(target)
        return None

    def list_dir(self, path: P) -> list[str]:
        with self._directory(path) as held:
            return sorted(name for name in held.names() if not self._is_hidden(name))

    def walk(self, path: P, /, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        return self._walked(path, recursive)

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        with self._located(path):
            selected = NameFilter(pattern, extensions)
        _, files, _ = self._walked(path, recursive, selected)
        return sorted(files, key=file_order)

    def _walked(
        self, path: P, recursive: bool, selected: NameFilter | None = None
    ) -> tuple[list[str], list[str], list[str]]:
        """Return directories, files and what is neither, or selected files alone.

        It goes down and up again by one directory at a time, however deep they are. What goes
        meanwhile is left out.
        """
        found = _Found(self._text(path), selected)
        with self._directory(path) as held, Descent(held) as walk:
            above = [found.top.rstrip("/")]
            waiting = [self._scan(walk, above[0], found)]
            while waiting:
                if not waiting[-1]:
                    waiting.pop()
                    above.pop()
                    if waiting and not _left(walk):
                        found_again = walk.go_to([each.rpartition("/")[2] for each in above[1:]])
                        del above[found_again + 1 :], waiting[found_again + 1 :]
                    continue
                child = f"{above[-1]}/{waiting[-1][-1]}"
                try:
                    walk.enter(waiting[-1].pop())
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError:
                    with self._read_errors(child):
                        raise
                above.append(child)
                if self._directories_are_values and self._is_value(walk):
                    found.add_file(child)
                    waiting.append([])
                    continue
                found.directories.append(child)
                waiting.append(self._scan(walk, child, found) if recursive else [])
        return found.directories, found.files, found.others

    def _scan(self, directory: Held, path: str, found: _Found) -> list[str]:
        """Add what is in a directory to what is found; return the names of its directories."""
        names = []
        with self._read_errors(path or "/"), directory.entries() as entries:
            for entry in entries:
                if self._is_hidden(entry.name):
                    continue
                child = f"{path}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    found.add_file(child)
                elif not entry.is_symlink():
                    found.others.append(child)
                elif found.wants(entry.name):
                    # Where a link leads is asked as any path is: it could lead out of a root.
                    self._sort_link(child, found)
        return names

    def _sort_link(self, link: str, found: _Found) -> None:
        try:
            if self.is_file(link):
                found.files.append(link)
            elif self.is_dir(link):
                found.directories.append(link)
            else:
                found.others.append(link)
        except StorageResolutionError:
            found.others.append(link)  # it leads out of the root, or in a circle

    @contextmanager
    def _directory(self, path: P) -> Iterator[Held]:
        with self._read_errors(path), missing_below_files(), self._places.existing(path) as held:
            if not self._is_directory(held):
                raise PathNotDirectoryError("the path is a file")
            yield held

    @contextmanager
    def _existing_value(self, path: P) -> Iterator[Held]:
        """Give the value at `path`, held open."""
        with self._read_errors(path), missing_below_files(), self._places.existing(path) as held:
            if not self._is_value(held):
                check_no_device(held.status())
                raise PathIsDirectoryError("the path is a directory")
            yield held

    def _text(self, path: P) -> str:
        with self._located(path):
            return self._places.text(path)

    # Errors

    def _located(self, path: P) -> AbstractContextManager[None]:
        return located(path, self._backend_type)

    def _os_errors(self, path: P) -> AbstractContextManager[None]:
        return os_errors(path, self._backend_type)

    def _read_errors(self, path: P) -> AbstractContextManager[None]:
        return os_errors(path, self._backend_type, refused=StorageResolutionError)

    def _error(self, kind: type[StorageError], message: str, path: P) -> StorageError:
        return kind(message, path=display(path), backend=self._backend_type)


class _Found:
    """What a walk has found so far; the directory where it starts is the first.

    Parameters
    ----------
    top : str
        The path of that directory.
    selected : NameFilter, optional
        Of what names files and links are wanted; all, if it is left out.
    """

    def __init__(self, top: str, selected: NameFilter | None) -> None:
        self.top, self.wants = top, selected or (lambda _: True)
        self.directories, self.files, self.others = [top], list[str](), list[str]()

    def add_file(self, path: str) -> None:
        if self.wants(path.rpartition("/")[2]):
            self.files.append(path)


def _left(walk: Descent) -> bool:
    try:
        walk.leave()
    except FileNotFoundError:
        return False  # what it has left was moved
    return True
