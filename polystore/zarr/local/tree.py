"""The zarr backend's tree on a local file system: arrays, groups and files in directories."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import zarr

from polystore.error_translation import os_errors
from polystore.exceptions import UnsupportedFormatError, UnsupportedOperationError
from polystore.filesystem.dir_fd import check_no_device
from polystore.filesystem.tree import LocalTree
from polystore.filesystem.values import load_files
from polystore.paths import P
from polystore.zarr.array.creation import ZarrFormat
from polystore.zarr.array.groups import GROUP_FILES, GROUP_METADATA
from polystore.zarr.array.pipelines import Pipeline
from polystore.zarr.array.reading import Mode, open_node
from polystore.zarr.array.stored import StoredArray, copy_stored
from polystore.zarr.array.updating import Shared
from polystore.zarr.local.rooted_store import TreeStore
from polystore.zarr.local.values import ArrayValues

__all__ = ["LocalZarr"]


class LocalZarr(LocalTree):
    """Store arrays of numbers as directories that zarr reads, and any other value as a file.

    A save is atomic: the array is written next to its place and takes it in one step. What the
    methods promise is said by `polystore.zarr.ZarrBackend`.

    - `zarr_format`: the format where no group has one yet; by default 3
    - `pipeline`: what reads and writes the chunks of arrays
    """

    _values: ArrayValues

    def __init__(
        self,
        root: P | None = None,
        *,
        zarr_format: ZarrFormat | None = None,
        pipeline: Pipeline = "auto",
    ) -> None:
        values = partial(ArrayValues, zarr_format=zarr_format, pipeline=pipeline)
        super().__init__(root, values, backend="zarr")
        if self._resolver.root is not None:
            with os_errors("/", self._backend), self._resolver.resolve("/") as top:
                if not top.names():
                    name, metadata = GROUP_FILES[zarr_format or 3]
                    top.location(name).write(metadata)

    def open(self, path: P, mode: Mode = "r") -> zarr.Array[Any] | zarr.Group:
        with os_errors(path, self._backend), self._resolver.resolve(path) as handle:
            check_no_device(handle.status())
            if not handle.is_directory():
                raise UnsupportedFormatError("the path is a file, neither an array nor a group")
            root = self._resolver.root
            text = self._resolver.real(path) if root is None else self._resolver.text(path)
            store = TreeStore(root, text, read_only=mode == "r")
            directory = text if root is None else f"{root}{text}"
            return open_node(store, mode, self._values.pipeline, directory)

    def load_all(self, paths: Sequence[P], **options: Any) -> Iterator[Any]:
        return load_files(partial(self.load, **options), paths)

    @contextmanager
    def shared(self, path: P, *, durable: bool) -> Iterator[Shared]:
        """Yield an array that others change too."""
        with os_errors(path, self._backend), self._lookup.existing_value(path) as handle:
            if not handle.is_directory():
                raise UnsupportedOperationError("only zarr arrays grow, and this is a file")
            with self._values.shared(handle, path, durable=durable) as array:
                yield array

    # Copies into another tree, and out of one

    @contextmanager
    def stored(self, path: P) -> Iterator[StoredArray | None]:
        """Yield the array at a path as it is stored, None for a file."""
        with self._lookup.existing_value(path) as handle:
            if not handle.is_directory():
                yield None
                return
            values = self._values
            kind: ZarrFormat = 3 if values.files(handle).exists("zarr.json") else 2
            is_whole = values.is_whole(handle)
            is_still_there = lambda: self._lookup.leads_to(path, handle) and is_whole()  # noqa: E731
            yield StoredArray(values.store(handle, read_only=True), kind, is_still_there)

    def put_stored(self, path: P, array: StoredArray, *, parents: bool = False) -> None:
        """Store a copy of an array at a free path."""
        write = self._values.array_writer(lambda store, _: copy_stored(array, store))
        self._publish(self._values, path, write, parents=parents)

    def shows(self, path: P, zarr_format: ZarrFormat) -> bool:
        """Return whether the group above a path shows members of a format."""
        return self._values.shows(path, zarr_format)

    def group_metadata(self, path: P) -> dict[str, bytes]:
        """Return the metadata files of the group at a path, {} if it is not a group."""
        with os_errors(path, self._backend), self._resolver.resolve(path) as handle:
            files = self._values.files(handle)
            found = {name: files.read(name) for name in GROUP_METADATA}
        return {name: data for name, data in found.items() if data is not None}

    def put_group(self, path: P, metadata: Mapping[str, bytes]) -> None:
        """Create a group with this metadata at a free path, and its parents."""
        self.ensure_directory(os.path.dirname(self._resolver.text(path)) or ".")
        with self._free_place(path) as location:
            self._values.forget(path)
            self._values.make_group(location, metadata)
