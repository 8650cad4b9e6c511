"""The reading half of backends on a local file system: where paths lead, questions, listings."""

from __future__ import annotations

import os
import stat
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from polystore.atomic import is_temporary
from polystore.base import DataSource
from polystore.exceptions import (
    InvalidPathError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    UnsupportedFormatError,
)
from polystore.os_errors import located, missing_below_files, nothing_there, os_errors
from polystore.paths import NameFilter, P, as_text, display, file_order
from polystore.places import Places, RootedPlaces, SystemPlaces
from polystore.registration import BackendBase

__all__ = ["LocalSource"]

_SETTLED_AFTER = 2.0  # seconds: what the coarsest file systems count in
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # a pipe is not waited for


class LocalSource(BackendBase, DataSource):
    """Where paths lead on a local file system, and what is there.

    Parameters
    ----------
    root : str or os.PathLike, optional
        Without it, paths are those of the operating system. With it, paths form one tree rooted
        at ``/``, as in the memory backend, that lies in this directory, and nothing outside it
        can be reached, not by ``..``, an absolute path or a symbolic link.
    """

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

    @abstractmethod
    def _is_value(self, place: str) -> bool:
        """Tell whether there is a value at a place."""

    def _describe(self, place: str, path: P) -> dict[str, Any]:
        """Return what `stat` says of a value beside its time."""
        return {"size": os.stat(place).st_size}

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
            with self._places.existing(path) as place:
                # Opened, since a network file system answers other questions from what it knows.
                descriptor = os.open(place, os.O_RDONLY | _AT_ONCE)
                try:
                    status = os.fstat(descriptor)
                finally:
                    os.close(descriptor)
        except (OSError, StorageError):
            return None  # who loads it is told
        if not stat.S_ISREG(status.st_mode):
            return None
        if time.time() - max(status.st_mtime, status.st_ctime) < _SETTLED_AFTER:
            return None
        facts = (status.st_dev, status.st_ino, status.st_size)
        return *facts, status.st_mtime_ns, status.st_ctime_ns

    # Asking

    def exists(self, path: P) -> bool:
        return self._asked(path, os.path.exists)

    def is_file(self, path: P) -> bool:
        return self._asked(path, self._is_value)

    def is_dir(self, path: P) -> bool:
        return self._asked(path, self._is_directory)

    def is_symlink(self, path: P) -> bool:
        with self._read_errors(path), nothing_there(), self._places.itself(path) as place:
            return os.path.islink(place)
        return False

    def _asked(self, path: P, question: Callable[[str], bool]) -> bool:
        with self._read_errors(path), nothing_there(), self._places.existing(path) as place:
            return question(place)
        return False

    def _is_directory(self, place: str) -> bool:
        return os.path.isdir(place) and not self._is_value(place)

    def stat(self, path: P) -> dict[str, Any]:
        facts: dict[str, Any] = {"type": "missing", "path": self._text(path), "exists": False}
        target = self._target(path)
        if target is not None:
            facts |= {"type": "symlink", "target": target}
        with self._read_errors(path), nothing_there(), self._places.existing(path) as place:
            value = self._is_value(place)
            status = os.stat(place)
            described = self._describe(place, path) if value else {}
            # Only now, since it may have gone meanwhile.
            if facts["type"] == "missing":
                is_directory = stat.S_ISDIR(status.st_mode) and not value
                facts["type"] = "directory" if is_directory else "file"
            facts |= {"exists": True, "modified": status.st_mtime, **described}
        return facts

    def _target(self, path: P) -> str | None:
        """Return where a link leads, None for anything else."""
        with self._read_errors(path), nothing_there(), self._places.itself(path) as place:
            if not os.path.islink(place):
                return None
            target = os.readlink(place)
            if not os.path.isabs(target):
                target = os.path.join(os.path.dirname(self._places.real(path)), target)
            return self._places.shown(target)
        return None

    def list_dir(self, path: P) -> list[str]:
        with self._directory(path) as place:
            return sorted(name for name in os.listdir(place) if not self._is_hidden(name))

    def walk(self, path: P, /, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        return self._walk_beside_files(path, recursive)

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        with self._located(path):
            selected = NameFilter(pattern, extensions)
        top = self._text(path).rstrip("/")
        found, below = self._scanned(top, selected)
        while recursive and below:
            with suppress(PathNotFoundError, PathNotDirectoryError):  # it went meanwhile
                files, directories = self._scanned(below.pop(), selected)
                found += files
                below += directories
        return sorted(found, key=file_order)

    def _scanned(self, directory: str, selected: NameFilter) -> tuple[list[str], list[str]]:
        """Return the selected files and all directories in a directory."""
        files: list[str] = []
        directories: list[str] = []
        with self._directory(directory or "/") as place, os.scandir(place) as entries:
            for entry in entries:
                child = f"{directory}/{entry.name}"
                if self._is_hidden(entry.name):
                    continue
                if entry.is_symlink():
                    # Where a link leads is asked as any path is: it could lead out of a root.
                    if selected(entry.name) and self._leads_to_file(child):
                        files.append(child)
                elif entry.is_dir() and not self._is_value(entry.path):
                    directories.append(child)
                elif selected(entry.name) and self._is_value(entry.path):
                    files.append(child)
        return files, directories

    def _leads_to_file(self, link: str) -> bool:
        try:
            return self.is_file(link)
        except InvalidPathError:
            return False

    @contextmanager
    def _reading(self, path: P) -> Iterator[str]:
        """Give the place of what is read; below a file there is nothing."""
        with self._read_errors(path), missing_below_files(), self._places.existing(path) as place:
            yield place

    @contextmanager
    def _directory(self, path: P) -> Iterator[str]:
        with self._reading(path) as place:
            while not self._is_directory(place):
                mode = os.stat(place).st_mode
                if not stat.S_ISDIR(mode) or self._is_value(place):
                    raise PathNotDirectoryError("the path is a file")
                # It came meanwhile.
            yield place

    @contextmanager
    def _existing_value(self, path: P) -> Iterator[str]:
        """Give the place of the value at `path`."""
        with self._reading(path) as place:
            while not self._is_value(place):
                mode = os.stat(place).st_mode
                if self._is_value(place):
                    break  # it came meanwhile
                if stat.S_ISDIR(mode):
                    raise PathIsDirectoryError("the path is a directory")
                if not stat.S_ISREG(mode):
                    raise UnsupportedFormatError("the path is a pipe, a socket or a device")
            yield place

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
