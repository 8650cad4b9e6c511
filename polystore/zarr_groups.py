"""Zarr groups: the format that their members have, and what they say of all that is below them.

A group may hold the metadata of everything below it, *consolidated*, which zarr and xarray then
believe. So who changes what is below takes this away first, from every group above: with it gone
they look at the metadata themselves, and never see what is no more, whenever the change stops.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from polystore.atomic import keep_mode, remove, temporary_name
from polystore.exceptions import InvalidPathError, UnsupportedFormatError
from polystore.held import Place
from polystore.places import Places
from polystore.renames import ReplacedError, replace_only
from polystore.zarr_arrays import GROUP
from polystore.zarr_creation import ZarrFormat
from polystore.zarr_files import MOST_METADATA

__all__ = [
    "CONSOLIDATED",
    "GROUP_FILES",
    "GROUP_METADATA",
    "GroupMark",
    "LocalGroups",
    "is_shown",
    "member_format",
    "metadata_of_copy",
    "without_consolidated",
]

CONSOLIDATED = ".zmetadata"
"""The name under which format 2 keeps consolidated metadata."""

GROUP_METADATA = ("zarr.json", ".zgroup", ".zattrs")
"""The names under which a group keeps what it says of itself."""

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


def is_shown(marks: Iterable[GroupMark], zarr_format: ZarrFormat) -> bool:
    """Return whether the group that a new member lies in shows one of this format."""
    try:
        member_format(marks, zarr_format, None)
    except UnsupportedFormatError:
        return False
    return True


def without_consolidated(metadata: bytes) -> bytes | None:
    """Return the bytes of a ``zarr.json`` without consolidated metadata; None if it has none."""
    if b"consolidated_metadata" not in metadata:
        return None
    try:
        found = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.pop("consolidated_metadata", None) is None:
        return None
    return json.dumps(found, indent=2).encode()


def metadata_of_copy(
    metadata: Mapping[str, bytes], inner: ZarrFormat | None = None
) -> dict[str, bytes]:
    """Return the metadata that the copy of a group gets.

    What a group says of its members, consolidated, stays behind: they are yet to come.

    Parameters
    ----------
    metadata : mapping
        Those of the group, by the names in `GROUP_METADATA`; none of a directory that is no group.
    inner : {2, 3}, optional
        The format that a directory which is no group gets: that of the arrays in it.
    """
    new = metadata.get("zarr.json")
    if new is not None:
        return {"zarr.json": without_consolidated(new) or new}
    if ".zgroup" in metadata:
        return dict(metadata)
    return dict([GROUP_FILES[inner or 3]])


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
        with self._places.existing(directory) as held:
            remove(held.place(CONSOLIDATED))
        path = _key(directory, "zarr.json")
        with self._places.slot(path) as metadata:  # what a link leads to
            while True:
                known = metadata.status()
                changed = without_consolidated(self._read(path, -1) or b"")
                if changed is None:
                    return
                with suppress(ReplacedError):
                    self._replace(metadata, known, changed)

    def _read(self, path: str, most: int = MOST_METADATA) -> bytes | None:
        """Return what is in a file of metadata, None if there is none to be believed."""
        not_there = (OSError, UnsupportedFormatError, InvalidPathError)
        with suppress(*not_there), self._places.existing(path) as held, held.open() as file:
            return file.read(most)
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
