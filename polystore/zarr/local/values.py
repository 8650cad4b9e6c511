"""What a value of a local zarr tree is: a directory that holds an array, or a file."""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import zarr
from zarr.abc.store import Store

from polystore.exceptions import (
    CorruptDataError,
    InvalidPathError,
    StorageError,
    UnsupportedFormatError,
)
from polystore.filesystem.descent import files_below
from polystore.filesystem.dir_fd import REACH, Handle, Location
from polystore.filesystem.path_resolver import PathResolver
from polystore.filesystem.retry import read_until_stable
from polystore.filesystem.temporaries import PREFIX, rename_new, sweep_now, temporary
from polystore.filesystem.tree_operations import sync_tree
from polystore.filesystem.values import FileValues
from polystore.paths import P
from polystore.region import Region
from polystore.stat import Details
from polystore.zarr.array.creation import (
    DEFAULTS,
    ArrayOptions,
    ZarrFormat,
    as_numbers,
    check_file,
    create,
)
from polystore.zarr.array.groups import GROUP_FILES, GroupMark, is_shown, member_format
from polystore.zarr.array.pipelines import Pipeline
from polystore.zarr.array.reading import (
    METADATA,
    apart,
    array_facts,
    described,
    group_facts,
    node_type,
    open_array,
    open_node,
    read_array,
)
from polystore.zarr.array.updating import Shared, write_region
from polystore.zarr.local.groups import LocalGroups
from polystore.zarr.local.rooted_store import KeyFiles, files_in, held_store
from polystore.zarr.local.shared_array import SharedDirectory

__all__ = ["ArrayValues"]


class ArrayValues(FileValues):
    """Arrays of numbers, as directories that zarr reads, and any other value as a file."""

    has_directories = True

    def __init__(
        self,
        resolver: PathResolver,
        zarr_format: ZarrFormat | None = None,
        pipeline: Pipeline = "auto",
    ) -> None:
        super().__init__(resolver)
        self.pipeline = pipeline
        self._default_format = zarr_format
        self._options = DEFAULTS
        self._groups = LocalGroups(resolver)

    def with_options(self, options: ArrayOptions = DEFAULTS) -> ArrayValues:
        """Return the same, with these options for new arrays, and their format for groups."""
        if options is DEFAULTS:
            return self
        values = copy(self)
        kind = options.zarr_format or self._options.zarr_format
        values._options = replace(options, zarr_format=kind)  # noqa: SLF001 - its own kind
        return values

    def _new_format(
        self, marks: Iterable[GroupMark], replaced: zarr.Array[Any] | None = None
    ) -> ZarrFormat:
        """Return the format of what is to be made in directories of these marks."""
        wanted = self._options.zarr_format
        if wanted is None and replaced is not None and replaced.metadata.zarr_format == 2:
            return 2
        return member_format(marks, wanted, self._default_format)

    def shows(self, path: P, zarr_format: ZarrFormat) -> bool:
        """Return whether the group above a path shows members of a format."""
        return is_shown(self._groups.marks(path), zarr_format)

    def files(self, directory: Handle) -> KeyFiles:
        return files_in(directory, rooted=self.resolver.root is not None)

    def store(self, directory: Handle, *, read_only: bool) -> Store:
        """Return what zarr opens a directory with, which it holds open."""
        return held_store(directory, rooted=self.resolver.root is not None, read_only=read_only)

    # Names

    def is_hidden(self, name: str) -> bool:
        return name in METADATA or super().is_hidden(name)

    def check_name(self, name: str) -> None:
        if name in METADATA:
            raise InvalidPathError("zarr keeps its own metadata under this name")
        super().check_name(name)

    # What there is

    def is_array(self, directory: Handle) -> bool:
        files = self.files(directory)
        try:
            # A group has a zarr.json too.
            metadata = files.read("zarr.json")
            if metadata is not None and node_type(metadata) == "array":
                return True
            return files.exists(".zarray")
        except (OSError, CorruptDataError, InvalidPathError):
            return False  # a question never fails: what cannot be looked at is not there

    def describe(self, handle: Handle, path: P) -> dict[str, Any]:
        if not handle.is_directory():
            return super().describe(handle, path)
        facts: dict[str, Any] = {"size": _size(handle)}
        with suppress(CorruptDataError, InvalidPathError):  # stat never fails on what a file holds
            facts |= array_facts(open_array(self.store(handle, read_only=True)))
        return facts

    def describe_directory(self, handle: Handle) -> Details:
        files = self.files(handle)
        with suppress(OSError, StorageError):
            return group_facts(files.read("zarr.json"), partial(files.read, ".zattrs"))
        return {}

    # Reading and writing

    def load(
        self, handle: Handle, path: P, region: Region | None, suffix: str | None, **options: Any
    ) -> Any:
        if not handle.is_directory():
            return super().load(handle, path, region, suffix, **options)
        if suffix is not None:
            raise UnsupportedFormatError(f"an array of zarr is no {suffix} file")
        store = self.store(handle, read_only=True)
        return read_until_stable(
            lambda: nullcontext(self.is_whole(handle)),
            lambda _: read_array(store, region, lambda: _size(handle), self.pipeline, handle.path),
            lambda is_whole: is_whole(),
        )

    def is_whole(self, directory: Handle) -> Callable[[], bool]:
        """Return what tells whether an array was cut off since.

        What is cut off while it is read would read as fill values.
        """
        files = self.files(directory)
        shape = _shape(files)
        return lambda: not any(map(operator.lt, _shape(files), shape))

    def apart(self, handle: Handle, path: P) -> list[str]:
        if not handle.is_directory():
            return super().apart(handle, path)
        return apart(open_node(self.store(handle, read_only=True), "r"))

    def writer(
        self, data: Any, path: P, suffix: str | None, *, durable: bool
    ) -> Callable[[Location], None]:
        array = as_numbers(data) if suffix is None else None
        if array is None:
            check_file(data, suffix or str(path))
            return super().writer(data, path, suffix, durable=durable)

        def write(store: Store, directory: Handle) -> None:
            replaced = self._array_at(path)
            create(
                store,
                array,
                self._options,
                zarr_format=self._new_format(self._groups.marks(path), replaced),
                replaced=replaced,
                pipeline=self.pipeline,
                directory=directory.path,
            )

        return self.array_writer(write, durable=durable)

    def array_writer(
        self, write: Callable[[Store, Handle], None], *, durable: bool = False
    ) -> Callable[[Location], None]:
        """Return what makes a directory at a location, for `write` to write an array into."""

        def write_to(location: Location) -> None:
            location.make_directory()
            with location.hold(REACH | os.O_DIRECTORY) as directory:
                write(self.store(directory, read_only=False), directory)
                if durable:
                    sync_tree(directory)

        return write_to

    def save_region(
        self, data: Any, directory: Handle, path: P, region: Region, *, durable: bool
    ) -> None:
        with self.shared(directory, path, durable=durable) as array:
            write_region(array, region, data)

    @contextmanager
    def shared(self, directory: Handle, path: P, *, durable: bool) -> Iterator[Shared]:
        """Yield an array that others change too; what is changed is synced at the end."""
        store, files = self.store(directory, read_only=False), self.files(directory)
        yield SharedDirectory(directory, files, store, partial(self.forget, path), self.pipeline)
        if durable:
            sync_tree(directory)

    def _array_at(self, path: P) -> zarr.Array[Any] | None:
        """Return the array that is replaced, None where there is none that can be read."""
        with suppress(OSError, CorruptDataError), self.resolver.resolve(path) as handle:
            if handle.is_directory() and self.is_array(handle):
                return open_array(self.store(handle, read_only=True))
        return None

    # Changes of the tree

    def forget(self, path: P) -> None:
        """Remove what the groups above a path say of their members, which is about to change."""
        self._groups.forget(path)

    def before_change(self, path: P, *locations: Location) -> None:
        # zarr may know of arrays, groups, and links to them.
        if any(location.is_directory() or location.is_link() for location in locations):
            self.forget(path)

    def make_directory(self, location: Location) -> None:
        chosen = self._new_format(self._groups.marks_from(location.directory))
        name, metadata = GROUP_FILES[chosen]
        self.make_group(location, {name: metadata})

    def make_group(self, location: Location, metadata: Mapping[str, bytes]) -> None:
        """Make a group of these metadata at a free location."""
        self.check_name(location.name)
        with temporary(location, hidden=True) as new:
            new.make_directory()
            with new.hold(REACH | os.O_DIRECTORY) as directory:
                for name, data in metadata.items():
                    directory.location(name).write(data)
            rename_new(new, location)

    def remove_directory(self, location: Location, path: P) -> None:
        with (
            location.hold(REACH | os.O_DIRECTORY) as directory,
            temporary(location, hidden=True) as hidden,
        ):
            sweep_now(directory)
            if not all(map(self.is_hidden, directory.names())):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), location.name)
            self.forget(path)
            # They are in the way of rmdir, which alone knows whether somebody saves there now.
            aside = hidden.directory
            for name in METADATA:
                with suppress(FileNotFoundError):
                    directory.location(name).rename(aside.location(PREFIX + name))
            try:
                location.remove_directory()
            except OSError:
                for name in aside.names():
                    with suppress(OSError):  # deleted by another, or made again
                        rename_new(
                            aside.location(name), directory.location(name.removeprefix(PREFIX))
                        )
                raise


def _shape(files: KeyFiles) -> tuple[int, ...]:
    """Return the shape of an array, () if its metadata cannot be read."""
    for name in ("zarr.json", ".zarray"):
        with suppress(OSError, StorageError, KeyError, TypeError):
            metadata = files.read(name)
            if metadata is not None:
                return tuple(described(metadata)["shape"])
    return ()


def _size(directory: Handle) -> int:
    return sum(status.st_size for _, status in files_below(directory))
