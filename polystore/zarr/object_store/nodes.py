"""What lies at the keys of a zarr tree in a store: arrays, groups, files, or nothing yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from polystore.filesystem.temporaries import is_temporary
from polystore.paths import NameFilter
from polystore.zarr.array.creation import ZarrFormat
from polystore.zarr.array.reading import METADATA, is_chunk, node_type
from polystore.zarr.object_store.client import Found, RemoteObjects
from polystore.zarr.object_store.lock_objects import lock_key, locked_name

__all__ = ["Names", "Node", "Nodes", "below", "is_hidden", "parent_of"]

Kind = Literal["array", "file", "directory", "missing"]


@dataclass(frozen=True, slots=True)
class Node:
    """What lies at a key.

    - `kind`: "array", "file", "directory" or "missing"
    - `metadata`: of an array or a group: what says so
    - `old`: whether the metadata are those of format 2
    - `occupied`: of a missing one that is locked: whether there are chunks below it, of a save that
      has not ended, or was killed
    """

    kind: Kind
    metadata: bytes | None = None
    old: bool = False
    occupied: bool = False

    @property
    def zarr_format(self) -> ZarrFormat:
        """The format of an array or a group."""
        return 2 if self.old else 3

    @property
    def metadata_name(self) -> str:
        """The name of the object that the metadata are in."""
        return ".zarray" if self.old else "zarr.json"


@dataclass(frozen=True, slots=True)
class Names:
    """The names in a directory: of objects that are values, and of arrays and directories."""

    files: frozenset[str]
    inner: frozenset[str]


def parent_of(key: str) -> str:
    """Return the key of the directory that a key lies in."""
    return key.rpartition("/")[0]


def below(key: str, name: str) -> str:
    """Return the key of a name in a directory."""
    return f"{key}/{name}" if key else name


def is_hidden(name: str) -> bool:
    """Return whether a name is zarr's own, or that of a lock object."""
    return name in METADATA or is_temporary(name)


class Nodes:
    """Look at keys. Each look is a few requests, whatever the size of the tree.

    An array has nothing below it. Chunks without metadata, whose key is locked, are of one
    that is being saved and is not there yet.
    """

    def __init__(self, objects: RemoteObjects) -> None:
        self._objects = objects

    async def at(self, key: str) -> Node:
        """Return what lies at a key; the root is a directory, unless it is an array."""
        node = await self._look(key)
        # What is only implied may be an array that comes or goes between two requests.
        while key and node.kind == "directory" and node.metadata is None:
            again = await self._look(key)
            if again == node:
                break
            node = again
        return node

    async def _look(self, key: str) -> Node:
        if any(is_hidden(name) for name in key.split("/")):
            return Node("missing")
        metadata = await self._objects.metadata(below(key, "zarr.json"))
        if metadata is not None:
            return _node(metadata)
        found = await self._objects.find(key) if key else Found("directory", 0)
        node = await self._old(key, found)
        if node is not None:
            return node
        if found is None or (found.kind == "file" and is_chunk(key.rpartition("/")[2])):
            return Node("missing")
        if not await self._is_reached(parent_of(key)):
            return Node("missing")
        if found.kind == "directory" and await self._is_unpublished(key):
            return Node("missing", occupied=True)
        return Node(found.kind)

    async def _old(self, key: str, found: Found | None) -> Node | None:
        """Return the node that has metadata of format 2, None where there are none."""
        if self._objects.lists and (found is None or found.kind == "file"):
            return None  # they would lie below the key
        metadata = await self._objects.metadata(below(key, ".zarray"))
        if metadata is not None:
            return Node("array", metadata, old=True)
        if (
            not self._objects.lists
            and await self._objects.metadata(below(key, ".zgroup")) is not None
        ):
            return Node("directory")
        return None

    async def names(self, key: str) -> Names:
        """Return the names in a directory."""
        objects, inner = await self._objects.entries(key)
        locked = list({locked_name(name) for name in objects if is_temporary(name)} & inner)
        only = await self._objects.together(self._is_chunks(below(key, name)) for name in locked)
        inner -= {name for name, is_chunks in zip(locked, only, strict=True) if is_chunks}
        # No file has a name without a suffix, as chunks have of an array that comes or goes.
        files = (name for name in objects - inner if not is_hidden(name) and not is_chunk(name))
        return Names(frozenset(files), frozenset(inner))

    async def files(
        self, directories: Iterable[str], selected: NameFilter, *, recursive: bool
    ) -> tuple[list[str], list[str]]:
        """Return the keys of the files in some directories, and of the directories in these."""
        directories = list(directories)
        listed = await self._objects.together(map(self.names, directories))
        files: list[str] = []
        inner: list[str] = []
        for directory, names in zip(directories, listed, strict=True):
            files += (below(directory, name) for name in names.files if selected(name))
            # What is not wanted as an array need not be looked at, unless it may be a directory.
            wanted = (name for name in names.inner if recursive or selected(name))
            inner += (below(directory, name) for name in wanted)
        kinds = await self._objects.together(map(self._kind, inner))
        files += (
            key
            for key, kind in zip(inner, kinds, strict=True)
            if kind == "array" and selected(key.rpartition("/")[2])
        )
        deeper = (key for key, kind in zip(inner, kinds, strict=True) if kind == "directory")
        return files, list(deeper)

    async def _kind(self, key: str) -> Kind:
        """Return what is at a key that others lie below."""
        node = await self._explicit(key)
        if node is not None:
            return node.kind
        return "missing" if await self._is_unpublished(key) else "directory"

    async def _explicit(self, key: str) -> Node | None:
        """Return the node that has metadata, None where there are none."""
        metadata = await self._objects.metadata(below(key, "zarr.json"))
        if metadata is not None:
            return _node(metadata)
        metadata = await self._objects.metadata(below(key, ".zarray"))
        return None if metadata is None else Node("array", metadata, old=True)

    async def _is_reached(self, key: str) -> bool:
        """Return whether neither a directory nor what it lies in is an array."""
        while key:
            node = await self._explicit(key)
            if node is not None:
                return node.kind == "directory"
            if await self._is_unpublished(key):
                return False
            key = parent_of(key)
        return True

    async def _is_unpublished(self, key: str) -> bool:
        """Return whether what lies below a key without metadata is an array that comes or goes."""
        lock = await self._objects.get(lock_key(key))
        return lock is not None and await self._is_chunks(key)

    async def _is_chunks(self, key: str) -> bool:
        """Return whether there are but chunks below a key, or nothing any more."""
        names = await self._objects.below(key)
        chunks = all(is_chunk(n) or is_temporary(n.rpartition("/")[2]) for n in names)
        return chunks and not await self._objects.is_marked(key)


def _node(metadata: bytes) -> Node:
    return Node("array" if node_type(metadata) == "array" else "directory", metadata)
