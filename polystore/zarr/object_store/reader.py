"""What lies at the keys of a store is looked at and loaded; nothing is created by it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from polystore.exceptions import (
    CorruptDataError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    UnsupportedFormatError,
)
from polystore.filesystem.retry import read_until_stable
from polystore.formats import format_of
from polystore.paths import NameFilter, P, as_text, join, split
from polystore.region import Region, as_index
from polystore.stat import Details
from polystore.zarr.array.groups import GROUP_METADATA
from polystore.zarr.array.reading import (
    apart,
    array_facts,
    group_facts,
    open_array,
    open_node,
    read_array,
)
from polystore.zarr.object_store.client import RemoteObjects
from polystore.zarr.object_store.nodes import Names, Node, Nodes, below
from polystore.zarr.object_store.shared_array import is_same
from polystore.zarr.object_store.urls import as_url
from polystore.zarr.object_store.zarr_store import RemoteStore

__all__ = ["KeyReader"]


class KeyReader:
    """Look at keys, and load what lies there. Errors name no path.

    Paths begin with the URL `site`, or form one tree rooted at ``/`` if that is ``""``.
    """

    def __init__(self, objects: RemoteObjects, site: str) -> None:
        self._objects, self._site = objects, site
        self._nodes = Nodes(objects)

    def key(self, path: P) -> str:
        """Return the key of a path, whichever way it is spelled."""
        text = as_text(path)
        url = as_url(text) if self._site else None
        return "/".join(split(url.path or "/" if url else text))

    def text(self, key: str) -> str:
        """Return the path of a key as results show it."""
        return self._site + join([key]) if key else self._site or "/"

    def at(self, key: str) -> Node:
        return self._objects.wait(self._nodes.at(key))

    def existing(self, key: str) -> Node:
        node = self.at(key)
        if node.kind == "missing":
            raise PathNotFoundError("no such file or directory")
        return node

    def value(self, key: str) -> Node:
        node = self.existing(key)
        if node.kind == "directory":
            raise PathIsDirectoryError("the path is a directory")
        return node

    def check_directory(self, key: str) -> None:
        if self.existing(key).kind != "directory":
            raise PathNotDirectoryError("the path is a file")

    def is_still(self, key: str, node: Node) -> bool:
        """Return whether an array is the one that it was; a file comes whole."""
        if node.kind == "file":
            return True
        metadata = self._objects.metadata(below(key, node.metadata_name))
        return is_same(self._objects.wait(metadata), node.metadata)

    # Directories

    def names(self, key: str) -> Names:
        return self._objects.wait(self._nodes.names(key))

    def levels(
        self, key: str, selected: NameFilter, *, recursive: bool = True
    ) -> Iterator[tuple[list[str], list[str]]]:
        """Yield the keys of directories, level by level, each with those of the values there."""
        waiting = [key]
        while waiting:
            listing = self._nodes.files(waiting, selected, recursive=recursive)
            values, inner = self._objects.wait(listing)
            yield waiting, values
            waiting = inner if recursive else []

    def group_metadata(self, key: str) -> dict[str, bytes]:
        """Return the metadata of a group by their names, {} for what is not a group."""
        reads = (self._objects.get(below(key, name)) for name in GROUP_METADATA)
        found = self._objects.wait(self._objects.together(reads))
        named = zip(GROUP_METADATA, found, strict=True)
        return {name: data for name, data in named if data is not None}

    # Values

    def facts(self, key: str, node: Node) -> Details:
        """Return what `stat` says of what exists, besides its type."""
        facts: Details = {}
        location = key
        if node.kind == "file":
            found = self._objects.wait(self._objects.find(key))
            facts["size"] = found.size if found else 0
        elif node.kind == "array":
            facts = {"size": self._stored_bytes(key), **self._header(key, node)}
        else:
            old = lambda: self._objects.wait(self._objects.get(below(key, ".zattrs")))  # noqa: E731
            facts = group_facts(node.metadata, old)
        if node.metadata is not None:
            location = below(key, node.metadata_name)
        elif node.kind != "file":
            return facts  # what is only implied has no time
        modified = self._objects.modified(location)
        return facts if modified is None else {**facts, "modified": modified}

    def _stored_bytes(self, key: str) -> int:
        return sum(self._objects.wait(self._objects.below(key)).values())

    def _header(self, key: str, node: Node) -> Details:
        try:
            return array_facts(open_array(self._store(key, node)))
        except CorruptDataError:
            return {}  # stat never fails on what metadata hold

    def _store(self, key: str, node: Node) -> RemoteStore:
        """Return the store of an array whose metadata have been read."""
        return RemoteStore(self._objects, key, metadata={node.metadata_name: node.metadata or b""})

    def load(
        self, key: str, region: Region | None, suffix: str | None, options: dict[str, Any]
    ) -> Any:
        """Return a value; an array that is replaced while it is read, is read again."""

        def read(node: Node) -> Any:
            if node.kind == "file":
                return self._load_file(key, node, region, suffix, options)
            if suffix is not None:
                raise UnsupportedFormatError(f"an array of zarr is no {suffix} file")
            return read_array(self._store(key, node), region, partial(self._stored_bytes, key))

        look = lambda: nullcontext(self.value(key))  # noqa: E731
        return read_until_stable(look, read, partial(self.is_still, key))

    def _load_file(
        self,
        key: str,
        node: Node,
        region: Region | None,
        suffix: str | None,
        options: dict[str, Any],
    ) -> Any:
        index = None if region is None else as_index(region)
        chosen = format_of(suffix or key)
        with self._copied(key) as copy:
            if copy is not None:
                return chosen.load(copy, index, **options)
        if self.at(key) == node:
            raise PathNotFoundError("no such file or directory")
        return self.load(key, region, suffix, options)  # replaced by an array

    @contextmanager
    def _copied(self, key: str) -> Iterator[str | None]:
        """Yield the path of a local copy of a file, which the readers of formats need, or None."""
        data = self._objects.wait(self._objects.get(key))
        if data is None:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="polystore-") as folder:
            copy = os.path.join(folder, "file")
            with open(copy, "xb") as file:
                file.write(data)
            yield copy

    def apart(self, key: str) -> list[str]:
        """Return the names of what an array, a group or a file has in addition to its values."""
        if self.existing(key).kind != "file":
            return apart(open_node(RemoteStore(self._objects, key), "r"))
        with self._copied(key) as copy:
            return [] if copy is None else format_of(key).apart(copy)
