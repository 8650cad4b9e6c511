"""Zarr groups: the format that their members have, and what they say of all that is below them.

A group may hold the metadata of everything below it, *consolidated*, which zarr and xarray then
believe. So who changes what is below takes this away first, from every group above: with it gone
they look at the metadata themselves, and never see what is no more, whenever the change stops.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from polystore.atomic import keep_mode, remove, temporary_name
from polystore.exceptions import CorruptDataError, InvalidPathError, UnsupportedFormatError
from polystore.held import Place
from polystore.os_errors import nothing_there
from polystore.places import Places
from polystore.renames import ReplacedError, replace_only
from polystore.zarr_arrays import GROUP
from polystore.zarr_creation import ZarrFormat
from polystore.zarr_files import MOST_METADATA

__all__ = [
    "CONSOLIDATED",
    "GROUP_FILES",
    "GroupMark",
    "LocalGroups",
    "member_format",
    "without_consolidated",
]

CONSOLIDATED = ".zmetadata"
"""The name under which format 2 keeps consolidated metadata."""

GROUP_FILES: dict[ZarrFormat, tuple[str, bytes]] = {
    2: (".zgroup", json.dumps({"zarr_format": 2}).encode()),
    3: ("zarr.json", GROUP),
}
"""The name and the bytes of the metadata of a new group, by its format."""


@dataclass(frozen=True, slots=True)
class GroupMark:
    """What says that a directory is a group.

    Parameters
    ----------
    zarr_format : {2, 3}, optional
        Its format, None for a directory that is no group.
    is_bare : bool, default False
        Whether it is the root, as a backend marks it, of which nothing else is said.
    """

    zarr_format: ZarrFormat | None = None
    is_bare: bool = False

    @classmethod
    def of(cls, new: bytes | None, old: bytes | None, *, is_root: bool) -> GroupMark:
        """Return the mark that the bytes of ``zarr.json`` and of ``.zgroup`` are."""
        if new is not None:
            return cls(3, is_root and new == GROUP)
        return cls() if old is None else cls(2)


def member_format(
    marks: Iterable[GroupMark], wanted: ZarrFormat | None, default: ZarrFormat | None
) -> ZarrFormat:
    """Return the format of a new member.

    Parameters
    ----------
    marks : iterable of GroupMark
        Those of the directories that it lies in, the nearest first.
    wanted : {2, 3}, optional
        The format that the caller asked for.
    default : {2, 3}, optional
        The format where there is no group yet.

    Raises
    ------
    UnsupportedFormatError
        If the group has another format than the one asked for: it would not show its member.
    """
    for mark in marks:
        if mark.zarr_format is None:
            continue
        if wanted is None or wanted == mark.zarr_format:
            return mark.zarr_format
        if mark.is_bare:
            return wanted
        raise UnsupportedFormatError(
            f"the group is of zarr format {mark.zarr_format} and does not show a member of format "
            f"{wanted}; leave out zarr_format= or save elsewhere"
        )
    return wanted or default or 3


def without_consolidated(metadata: bytes | None) -> bytes | None:
    """Return the bytes of a ``zarr.json`` without consolidated metadata; None if it has none.

    Raises
    ------
    CorruptDataError
        If it is larger than any that is read.
    """
    if metadata is not None and len(metadata) > MOST_METADATA:
        raise CorruptDataError(f"the metadata of a group have more than {MOST_METADATA} bytes")
    if metadata is None or b"consolidated_metadata" not in metadata:
        return None
    try:
        found = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.pop("consolidated_metadata", None) is None:
        return None
    return json.dumps(found, indent=2).encode()


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
