"""The groups above a path of a local zarr hierarchy."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from polystore.error_translation import nothing_there
from polystore.exceptions import InvalidPathError, UnsupportedFormatError
from polystore.filesystem.dir_fd import Place
from polystore.filesystem.path_resolver import Places
from polystore.filesystem.renames import ReplacedError, replace_only
from polystore.filesystem.temporaries import keep_mode, remove, temporary_name
from polystore.zarr.array.groups import (
    CONSOLIDATED,
    MOST_METADATA,
    GroupMark,
    without_consolidated,
)

__all__ = ["LocalGroups"]


class LocalGroups:
    """The groups above a path of a tree on a local file system.

    Parameters
    ----------
    places : Places
        Where paths lead.
    is_rooted : bool
        Whether the tree has a root, above which nothing is looked at.
    """

    def __init__(self, places: Places, *, is_rooted: bool) -> None:
        self._places = places
        self._is_rooted = is_rooted

    def marks(self, path: str) -> Iterable[GroupMark]:
        """Yield the marks of the directories above a path, the nearest first."""
        for directory in _above(self._places.followed(path)):
            new, old = (self._read(_key(directory, name)) for name in ("zarr.json", ".zgroup"))
            is_root = self._is_rooted and directory == "/"
            yield GroupMark.of(new, old, is_root=is_root)

    def forget(self, path: str) -> None:
        """Take consolidated metadata away from every group above a path, its links followed too."""
        named = os.path.normpath(path if self._is_rooted else os.path.abspath(path))
        for directory in dict.fromkeys([*_above(named), *_above(self._places.followed(path))]):
            with suppress(FileNotFoundError, NotADirectoryError):
                self._forget_in(directory)

    def _forget_in(self, directory: str) -> None:
        path = _key(directory, CONSOLIDATED)
        if self._is_there(path):  # asked first: what lies above may be a read-only file system
            with self._places.itself(path) as place:
                remove(place)
        path = _key(directory, "zarr.json")
        if without_consolidated(self._read(path)) is None:
            return
        with self._places.slot(path) as metadata:  # what a link leads to
            while True:
                known = metadata.status()
                changed = without_consolidated(self._read(path))
                if changed is None:
                    return
                with suppress(ReplacedError):
                    self._replace(metadata, known, changed)

    def _is_there(self, path: str) -> bool:
        with nothing_there():
            self._places.status(path)
            return True
        return False

    def _read(self, path: str) -> bytes | None:
        """Return what is in a file of metadata, None if there is none to be believed."""
        not_there = (OSError, UnsupportedFormatError, InvalidPathError)
        with suppress(*not_there), self._places.open(path) as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(min(size, MOST_METADATA) + 1)  # room is made for all that is asked for
        return None

    def _replace(self, metadata: Place, known: os.stat_result, changed: bytes) -> None:
        temporary = metadata.beside(temporary_name())
        try:
            temporary.write(changed)
            keep_mode(metadata, temporary)
            replace_only(known, temporary, metadata)
        finally:
            remove(temporary)


def _above(path: str) -> list[str]:
    """Return the directories above an absolute path, the nearest first."""
    found = []
    while path not in ("/", "//", ""):
        path = os.path.dirname(path)
        found.append(path)
    return found


def _key(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"
