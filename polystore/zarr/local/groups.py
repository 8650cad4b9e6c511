"""The groups above a path of a local zarr hierarchy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from polystore.exceptions import InvalidPathError, UnsupportedFormatError
from polystore.filesystem.dir_fd import Held, Place
from polystore.filesystem.path_resolver import Places, RootedPlaces, SystemPlaces
from polystore.filesystem.renames import ReplacedError, replace_only
from polystore.filesystem.temporaries import keep_mode, remove, temporary_name
from polystore.paths import P
from polystore.zarr.array.groups import (
    CONSOLIDATED,
    MOST_METADATA,
    GroupMark,
    without_consolidated,
)

__all__ = ["LocalGroups"]

_SYSTEM = SystemPlaces()


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

    def marks(self, path: P) -> Iterator[GroupMark]:
        """Yield the marks of the directories that a path lies in, the nearest first."""
        with self._places.nearest(path) as directory:
            yield from self.marks_from(directory)

    def marks_from(self, directory: Held) -> Iterator[GroupMark]:
        """Yield the marks of a directory and of those above it, the nearest first."""
        with self._places.existing("/") as held:
            top = held.identity()
        for each in directory.upwards():
            new, old = (self._read(each, name) for name in ("zarr.json", ".zgroup"))
            is_top = each.identity() == top
            yield GroupMark.of(new, old, is_root=is_top and self._is_rooted)
            if is_top:
                return

    def forget(self, path: P) -> None:
        """Take consolidated metadata away from every group on the way to a path."""
        for place in self._places.steps(path):
            self._forget_in(place.directory)

    def _forget_in(self, directory: Held) -> None:
        consolidated = directory.place(CONSOLIDATED)
        if consolidated.exists():  # asked first: what lies above may be a read-only file system
            remove(consolidated)
        if without_consolidated(self._read(directory, "zarr.json")) is None:
            return
        places, top = self._places_in(directory)
        with places.slot(f"{top}/zarr.json") as metadata:  # what a link leads to
            while True:
                known = metadata.status()
                changed = without_consolidated(self._read(directory, "zarr.json"))
                if changed is None:
                    return
                with suppress(ReplacedError):
                    self._replace(metadata, known, changed)

    def _read(self, directory: Held, name: str) -> bytes | None:
        """Return what is in a file of metadata, None if there is none to be believed."""
        places, top = self._places_in(directory)
        not_there = (OSError, UnsupportedFormatError, InvalidPathError)
        with suppress(*not_there), places.open(f"{top}/{name}") as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(min(size, MOST_METADATA) + 1)  # room is made for all that is asked for
        return None

    def _places_in(self, directory: Held) -> tuple[Places, str]:
        """Return where the links of a directory lead, and the path there that it has."""
        return (RootedPlaces(directory), "") if self._is_rooted else (_SYSTEM, directory.path)

    def _replace(self, metadata: Place, known: os.stat_result, changed: bytes) -> None:
        temporary = metadata.beside(temporary_name())
        try:
            temporary.write(changed)
            keep_mode(metadata, temporary)
            replace_only(known, temporary, metadata)
        finally:
            remove(temporary)
