"""The reading half of a zarr tree in a store that a URL names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import zarr

from polystore.base import DataSource
from polystore.error_translation import located
from polystore.exceptions import (
    CorruptDataError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    UnsupportedFormatError,
)
from polystore.formats import format_of
from polystore.paths import NameFilter, P, as_text, file_order, join, split
from polystore.region import Region, as_index
from polystore.registration import BackendBase
from polystore.stat import Details, Stat
from polystore.zarr.array.reading import Mode, apart, open_array, open_node, read_array
from polystore.zarr.object_store.client import RemoteObjects
from polystore.zarr.object_store.nodes import Node, Nodes, below
from polystore.zarr.object_store.parallel import load_together
from polystore.zarr.object_store.shared_array import is_same
from polystore.zarr.object_store.urls import Url, as_url
from polystore.zarr.object_store.zarr_store import RemoteStore

__all__ = ["RemoteReading"]

_MISSING = Node("missing")


class RemoteReading(BackendBase, DataSource):
    """Ask for, list and load what lies below a URL; nothing is created by it.

    Parameters
    ----------
    url : Url
        Where the tree lies.
    options : mapping
        fsspec's ``storage_options``.
    rooted : bool
        Whether paths are those of one tree rooted at ``/``; or URLs, of which `url` is the site.
    """

    def __init__(self, url: Url, options: Mapping[str, Any], *, rooted: bool) -> None:
        self._objects = RemoteObjects(url, options)
        self._nodes = Nodes(self._objects)
        self._shown = "" if rooted else url.site

    # Paths

    def _key(self, path: P) -> str:
        """Return the key of a path, whichever way it is spelled."""
        text = as_text(path)
        url = as_url(text) if self._shown else None
        return "/".join(split(url.path or "/" if url else text))

    def _text(self, key: str) -> str:
        """Return the path of a key as results show it."""
        return self._shown + join([key]) if key else self._shown or "/"

    # Asking

    def exists(self, path: P) -> bool:
        return self._asked(path).kind != "missing"

    def is_file(self, path: P) -> bool:
        return self._asked(path).kind in ("array", "file")

    def is_dir(self, path: P) -> bool:
        return self._asked(path).kind == "directory"

    def _asked(self, path: P) -> Node:
        with self._located(path):
            key = self._key(path)
            try:
                return self._at(key)
            except PathNotFoundError:  # there is no such bucket
                return _MISSING

    def _at(self, key: str) -> Node:
        return self._objects.wait(self._nodes.at(key))

    def stat(self, path: P) -> Stat:
        node = self._asked(path)
        with self._located(path):
            key = self._key(path)
            facts: Stat = {
                "type": "file" if node.kind == "array" else node.kind,
                "path": self._text(key),
                "exists": node.kind != "missing",
            }
            place = key
            if node.kind == "file":
                found = self._objects.wait(self._objects.find(key))
                facts["size"] = found.size if found else 0
            elif node.kind == "array":
                facts = {**facts, "size": self._stored(key), **self._header(key, node)}
            if node.metadata is not None:
                place = below(key, node.metadata_name)
            elif node.kind != "file":
                return facts  # what is only implied has no time
            modified = self._objects.modified(place)
            return facts if modified is None else facts | {"modified": modified}

    def _stored(self, key: str) -> int:
        return sum(self._objects.wait(self._objects.below(key)).values())

    def _header(self, key: str, node: Node) -> Details:
        try:
            array = open_array(self._store(key, node))
        except CorruptDataError:
            return {}  # a question is no place to complain
        return {"shape": array.shape, "dtype": str(array.dtype)}

    def list_dir(self, path: P) -> list[str]:
        with self._located(path):
            key = self._key(path)
            self._check_directory(self._at(key))
            names = self._objects.wait(self._nodes.names(key))
            return sorted(names.files | names.inner)

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        selected = NameFilter(pattern, extensions)
        with self._located(path):
            top = self._key(path)
            self._check_directory(self._at(top))
            found: list[str] = []
            waiting = [top]
            while waiting:
                listing = self._nodes.files(waiting, selected, recursive=recursive)
                files, deeper = self._objects.wait(listing)
                found += files
                waiting = deeper if recursive else []
            return sorted(map(self._text, found), key=file_order)

    def _check_directory(self, node: Node) -> None:
        if node.kind == "missing":
            raise PathNotFoundError("no such file or directory")
        if node.kind != "directory":
            raise PathNotDirectoryError("the path is a file")

    # Reading

    def open(self, path: P, mode: Mode = "r") -> zarr.Array[Any] | zarr.Group:
        with self._located(path):
            key = self._key(path)
            node = self._at(key)
            if node.kind == "missing":
                raise PathNotFoundError("no such file or directory")
            if node.kind == "file":
                raise UnsupportedFormatError("the path is a file, neither an array nor a group")
            return open_node(RemoteStore(self._objects, key, read_only=mode == "r"), mode)

    def load(
        self,
        path: P,
        *,
        region: Region | None = None,
        suffix: str | None = None,
        series: int | None = None,
        missing: str | None = None,
        max_decoded: int | None = None,
    ) -> Any:
        asked = {"series": series, "missing": missing, "max_decoded": max_decoded}
        options = {name: value for name, value in asked.items() if value is not None}
        with self._located(path):
            key = self._key(path)
            while True:
                node = self._value_at(key)
                try:
                    value = self._load(key, node, region, suffix, options)
                except StorageError:
                    if self._at(key) == node:
                        raise
                    continue
                # Replaced while it was read, its missing chunks would have come as fill values.
                if self._is_still(key, node):
                    return value

    def _value_at(self, key: str) -> Node:
        node = self._at(key)
        if node.kind == "missing":
            raise PathNotFoundError("no such file or directory")
        if node.kind == "directory":
            raise PathIsDirectoryError("the path is a directory")
        return node

    def _store(self, key: str, node: Node, *, read_only: bool = True) -> RemoteStore:
        """Return the store of an array whose metadata have been read."""
        metadata = {node.metadata_name: node.metadata or b""}
        return RemoteStore(self._objects, key, read_only=read_only, metadata=metadata)

    def _is_still(self, key: str, node: Node) -> bool:
        """Tell whether an array is the one that it was; a file comes whole."""
        if node.kind == "file":
            return True
        metadata = self._objects.get(below(key, node.metadata_name))
        return is_same(self._objects.wait(metadata), node.metadata)

    def _load(
        self,
        key: str,
        node: Node,
        region: Region | None,
        suffix: str | None,
        options: dict[str, Any],
    ) -> Any:
        if node.kind == "array":
            if suffix is not None:
                raise UnsupportedFormatError(f"an array of zarr is no {suffix} file")
            store = self._store(key, node)
            return read_array(store, region, partial(self._stored, key))
        index = None if region is None else as_index(region)
        chosen = format_of(suffix or key)
        with self._copied(key) as copy:
            return chosen.load(copy, index, **options)

    @contextmanager
    def _copied(self, key: str) -> Iterator[str]:
        """Yield the path of a local copy of a file, because the readers of formats need one."""
        data = self._objects.wait(self._objects.get(key))
        if data is None:
            raise PathNotFoundError("no such file or directory")
        with tempfile.TemporaryDirectory(prefix="polystore-") as folder:
            copy = os.path.join(folder, "file")
            with open(copy, "xb") as file:
                file.write(data)
            yield copy

    def apart(self, path: P) -> list[str]:
        """Return the names of what an array, a group or a file has in addition to its values."""
        with suppress(StorageError):  # its load says it
            return apart(self.open(path))
        with suppress(StorageError), self._located(path):
            key = self._key(path)
            chosen = format_of(key)
            with self._copied(key) as copy:
                return chosen.apart(copy)
        return []

    def _load_all(self, paths: Sequence[P], **options: Any) -> Iterator[Any]:
        return load_together(partial(self.load, **options), paths)

    # Errors

    def _located(self, path: P) -> AbstractContextManager[None]:
        """Add path and backend to errors that were raised without."""
        return located(path, self._backend_type)
