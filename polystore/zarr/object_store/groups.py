"""The zarr groups above a key of a store: the format of their members, and what they tell."""

from __future__ import annotations

from polystore.zarr.array.groups import CONSOLIDATED, GroupMark, without_consolidated
from polystore.zarr.object_store.client import RemoteObjects
from polystore.zarr.object_store.nodes import below, parent_of

__all__ = ["RemoteGroups"]


class RemoteGroups:
    """The groups above the keys of a store.

    - `is_rooted`: whether the top of the store is the root of a tree that a backend marks as a
      group
    """

    def __init__(self, objects: RemoteObjects, *, is_rooted: bool) -> None:
        self._objects = objects
        self._is_rooted = is_rooted

    def marks(self, key: str) -> list[GroupMark]:
        """Return the marks of the directories above a key, the nearest first."""
        return [
            GroupMark.of(new, old, is_root=self._is_rooted and not directory)
            for directory, (new, old) in self._read(key, "zarr.json", ".zgroup")
        ]

    def forget(self, key: str) -> None:
        """Take consolidated metadata away from every group above a key."""
        found = self._read(key, "zarr.json", CONSOLIDATED)
        for directory, (new, consolidated) in found:
            changed = without_consolidated(new)
            if changed is not None:
                self._objects.wait(self._objects.put(below(directory, "zarr.json"), changed))
            if consolidated is not None:
                self._objects.wait(self._objects.delete([below(directory, CONSOLIDATED)]))

    def _read(self, key: str, *names: str) -> list[tuple[str, list[bytes | None]]]:
        """Return what every directory above a key has under some names; all are asked at once."""
        above = []
        while key:
            key = parent_of(key)
            above.append(key)
        places = [below(directory, name) for directory in above for name in names]
        read = iter(self._objects.wait(self._objects.together(map(self._objects.metadata, places))))
        return [(directory, [next(read) for _ in names]) for directory in above]
