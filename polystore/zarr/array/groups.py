"""Zarr groups: the format that their members have, and the metadata that they consolidate.

A group may hold the metadata of everything below it, *consolidated*. zarr and xarray then read
nothing else. So a change below a group first removes the consolidated metadata of every group
above it: readers then look at the metadata itself, whenever the change stops.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from polystore.exceptions import UnsupportedFormatError
from polystore.zarr.array.creation import ZarrFormat
from polystore.zarr.array.reading import GROUP

__all__ = ["CONSOLIDATED", "GROUP_FILES", "GroupMark", "member_format", "without_consolidated"]

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
