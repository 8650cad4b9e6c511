"""Zarr groups: the format that their members have, and the metadata that they consolidate.

A group may hold the metadata of everything below it, *consolidated*. zarr and xarray then read
nothing else. So a change below a group first removes the consolidated metadata of every group
above it: readers then look at the metadata itself, whenever the change stops.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from polystore.exceptions import CorruptDataError, UnsupportedFormatError
from polystore.zarr.array.creation import ZarrFormat
from polystore.zarr.array.reading import GROUP

__all__ = [
    "CONSOLIDATED",
    "GROUP_FILES",
    "GROUP_METADATA",
    "MOST_METADATA",
    "GroupMark",
    "is_shown",
    "member_format",
    "metadata_of_copy",
    "without_consolidated",
]

MOST_METADATA = 2**26
"""Bytes that a file of metadata may have, a group's with all that it consolidates included."""


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

    - `zarr_format`: its format, None for a directory that is not a group
    - `is_bare`: whether it is the root, as a backend marks it, of which nothing else is said
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

    - `marks`: those of the directories that it lies in, the nearest first
    - `wanted`: the format that the caller asked for
    - `default`: the format where there is no group yet

    Raises `UnsupportedFormatError` if the group has another format than the one asked for: it would
    not show its member.
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


def without_consolidated(metadata: bytes | None) -> bytes | None:
    """Return the bytes of a ``zarr.json`` without consolidated metadata; None if it has none.

    Raises `CorruptDataError` if it is larger than `MOST_METADATA`.
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


def metadata_of_copy(
    metadata: Mapping[str, bytes], inner: ZarrFormat | None = None
) -> dict[str, bytes]:
    """Return the metadata that the copy of a group gets.

    What a group says of its members, consolidated, stays behind: they are yet to come.

    - `metadata`: those of the group, by the names in `GROUP_METADATA`; none if it is only a
      directory
    - `inner`: the format that a directory which is not a group gets: that of the arrays in it
    """
    new = metadata.get("zarr.json")
    if new is not None:
        return {"zarr.json": without_consolidated(new) or new}
    if ".zgroup" in metadata:
        return dict(metadata)
    return dict([GROUP_FILES[inner or 3]])
