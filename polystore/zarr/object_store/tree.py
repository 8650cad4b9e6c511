"""The zarr backend's tree in a store that a URL names, such as ``s3://bucket/plates``."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

from zarr.abc.store import Store

from polystore.arguments import check_apart
from polystore.base import StorageBackend
from polystore.exceptions import (
    DirectoryNotEmptyError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageWriteError,
    UnsupportedOperationError,
)
from polystore.filesystem.temporaries import is_temporary
from polystore.formats import format_of
from polystore.paths import NameFilter, P
from polystore.region import Region, put_region
from polystore.zarr.array.creation import DEFAULTS, ArrayOptions, ZarrFormat, create
from polystore.zarr.array.groups import (
    GROUP_FILES,
    GROUP_METADATA,
    is_shown,
    member_format,
    metadata_of_copy,
)
from polystore.zarr.array.reading import as_numbers, check_file
from polystore.zarr.array.stored import StoredArray, copy_stored
from polystore.zarr.array.updating import Shared, append, resize, write_region
from polystore.zarr.object_store.groups import RemoteGroups
from polystore.zarr.object_store.lock_objects import Claim, claimed, claimed_name
from polystore.zarr.object_store.nodes import Node, below, is_hidden, parent_of
from polystore.zarr.object_store.parallel import each
from polystore.zarr.object_store.publishing import SharedObjects
from polystore.zarr.object_store.reader import RemoteReading
from polystore.zarr.object_store.shared_array import (
    clear,
    copy_array,
    put_array,
    put_file,
    put_group,
    remove_group,
    remove_value,
)
from polystore.zarr.object_store.urls import Url
from polystore.zarr.object_store.zarr_store import RemoteStore

__all__ = ["RemoteZarr"]


class RemoteZarr(RemoteReading, StorageBackend):
    """Store arrays of numbers as zarr arrays below a URL, and any other value as an object.

    A save is atomic, also where several processes save one path; a copy, a move or a deletion of
    a tree is not. What the methods promise is said by `polystore.zarr.ZarrBackend`.

    Parameters
    ----------
    url : Url
        Where the tree lies.
    options : mapping
        fsspec's ``storage_options``.
    rooted : bool
        Whether paths are those of one tree rooted at ``/``; or URLs, of which `url` is the site.
    zarr_format : {2, 3}, optional
        The format where no group has one yet; by default 3.
    """

    def __init__(
        self,
        url: Url,
        options: Mapping[str, Any],
        *,
        rooted: bool,
        zarr_format: ZarrFormat | None = None,
    ) -> None:
        super().__init__(url, options, rooted=rooted)
        self._is_marked = not rooted  # a bucket is made no group
        self._default_format = zarr_format
        self._wanted_format: ZarrFormat | None = None
        self._groups = RemoteGroups(self._objects, is_rooted=rooted)

    def of_format(self, zarr_format: ZarrFormat | None) -> RemoteZarr:
        """Return the same tree, which makes new arrays and groups of this format, None for any."""
        tree = copy(self)
        tree._wanted_format = zarr_format  # noqa: SLF001 - its own kind
        return tree

    def _format_of(self, key: str, replaced: Node | None = None) -> ZarrFormat:
        """Return the format of what is to be made at a key."""
        if self._wanted_format is None and replaced is not None and replaced.old:
            return 2
        return member_format(self._groups.marks(key), self._wanted_format, self._default_format)

    def _new_key(self, path: P) -> str:
        """Return the key of a path that something is to be made at."""
        key = self._key(path)
        if any(is_hidden(name) for name in key.split("/")):
            raise InvalidPathError("zarr, or a save, keeps something of its own under this name")
        return key

    def save(
        self,
        data: Any,
        path: P,
        *,
        overwrite: bool = False,
        parents: bool = False,
        region: Region | None = None,
        suffix: str | None = None,
        durable: bool = False,  # a store has answered only then
        options: ArrayOptions = DEFAULTS,
    ) -> None:
        if region is not None:
            self._save_region(data, path, region)
            return
        if options.zarr_format not in (None, self._wanted_format):
            tree = self.of_format(options.zarr_format)
            tree.save(
                data, path, overwrite=overwrite, parents=parents, suffix=suffix, options=options
            )
            return
        with self._located(path):
            key = self._new_key(path)
            array = as_numbers(data) if suffix is None else None
            encoded = _encoded(suffix or key, data) if array is None else b""
            missing = self._missing_parents(key, make=parents)
            if not key:
                self._check_replaced(self._at(key), overwrite=overwrite)
            self._make_groups(missing)
            with self._changing(key) as (node, claim):
                self._check_replaced(node, overwrite=overwrite)
                if node.kind == "missing":
                    self._missing_parents(key, make=True)  # an array may be there by now
                if array is None:
                    put_file(self._objects, key, encoded, node, claim)
                else:
                    kind = self._format_of(key, node)
                    write = partial(create, array=array, options=options, zarr_format=kind)
                    axes = array.ndim
                    put_array(self._objects, key, write, node, claim, axes=axes, zarr_format=kind)

    def _save_region(self, data: Any, path: P, region: Region) -> None:
        with self._located(path):
            key = self._key(path)
            while True:
                node = self._value_at(key)
                if node.kind == "file":
                    break
                write_region(SharedObjects(self._objects, key, node), region, data)
                if self._is_still(key, node):
                    return
        array = self.load(path)
        put_region(array, region, data, path=path, backend=self._backend_type)
        self.save(array, path, overwrite=True)

    def append(self, values: Any, path: P, *, axis: int = 0, durable: bool = False) -> int:
        with self._shared(path) as array:
            return append(array, values, axis)

    def resize(self, path: P, shape: Sequence[int], *, durable: bool = False) -> None:
        with self._shared(path) as array:
            resize(array, shape)

    @contextmanager
    def _shared(self, path: P) -> Iterator[Shared]:
        """Give an array that others change too, whose shape nobody else changes."""
        with self._located(path):
            key = self._key(path)
            self._value_at(key)
            with self._changing(key):
                node = self._value_at(key)
                if node.kind == "file":
                    raise UnsupportedOperationError("only zarr arrays grow, and this is a file")
                yield SharedObjects(self._objects, key, node)

    @contextmanager
    def _changing(self, key: str) -> Iterator[tuple[Node, Claim]]:
        """Hold the claim on a key, and give what is there under it."""
        with claimed(self._objects, key) as claim:
            yield self._at(key), claim

    def check_batch(self, paths: list[str], **options: Any) -> None:
        """Raise what a batch to `paths` would raise whatever the values."""
        self._check_batch(paths, **options)

    def _check_batch(self, paths: list[str], **options: Any) -> None:
        each(partial(self._check_save, **options), paths)
        keys = [self._key(path) for path in paths]
        check_apart(keys, parent_of, paths, backend=self._backend_type)

    def _check_save(
        self, path: str, *, overwrite: bool = False, parents: bool = False, **_options: Any
    ) -> None:
        with self._located(path):
            key = self._new_key(path)
            self._check_replaced(self._at(key), overwrite=overwrite)
            self._missing_parents(key, make=parents)

    def _check_replaced(self, node: Node, *, overwrite: bool) -> None:
        if node.kind == "directory":
            kind = PathIsDirectoryError if overwrite else PathExistsError
            raise kind("the path is a directory")
        if node.kind != "missing" and not overwrite:
            raise PathExistsError("the path exists already; overwrite=True lets a save replace it")

    def _missing_parents(self, key: str, *, make: bool) -> list[str]:
        """Return the directories that have to be made above a key, from the top."""
        missing: list[str] = []
        parent = parent_of(key)
        while parent:
            node = self._at(parent)
            if node.kind == "directory":
                break
            if node.kind != "missing":
                raise PathNotDirectoryError("a part of the path is a file")
            missing.append(parent)
            parent = parent_of(parent)
        if missing and not make:
            raise PathNotFoundError("the parent directory is missing; parents=True makes it")
        return missing[::-1]

    # Groups

    def ensure_directory(self, path: P) -> str:
        with self._located(path):
            key = self._new_key(path)
            try:
                self._make_groups(self._missing_parents(below(key, "x"), make=True))
            except PathNotDirectoryError as error:
                raise PathExistsError("the path, or a part of it, is a file") from error
            if not key:
                self._at(key)  # raises where there is no bucket
            return self._text(key)

    def _make_groups(self, missing: Iterable[str]) -> None:
        self._mark_root()
        for key in missing:
            with self._changing(key) as (node, claim):
                if node.kind == "missing":
                    clear(self._objects, key, node, claim)
                    self._groups.forget(key)
                    name, metadata = GROUP_FILES[self._format_of(key)]
                    self._objects.wait(self._objects.create(below(key, name), metadata))
                elif node.kind != "directory":
                    raise PathNotDirectoryError("another one has just saved a file here")

    def _mark_root(self) -> None:
        """Make the root a group, once there is something in it."""
        if self._is_marked:
            return
        objects, directories = self._objects.wait(self._objects.entries(""))
        if not objects | directories:
            name, metadata = GROUP_FILES[self._default_format or 3]
            self._objects.wait(self._objects.create(name, metadata))
        self._is_marked = True

    def delete(self, path: P) -> None:
        with self._located(path):
            key, node = self._present(path)
            if node.kind == "directory":
                self._delete_group(key)
            elif not self._delete_value(key):
                raise PathNotFoundError("no such file or directory")

    def _delete_value(self, key: str) -> bool:
        """Delete an array or a file; tell whether there was one."""
        with self._changing(key) as (node, _):
            if node.kind not in ("array", "file"):
                return False
            remove_value(self._objects, key, node)
            return True

    def _delete_group(self, key: str) -> None:
        """Delete a directory in which nothing is, once those that save in it have ended."""
        self._check_empty(key)
        for place in self._claimed(key):
            with self._changing(place) as (node, claim):
                if node.kind in ("missing", "file"):
                    clear(self._objects, place, node, claim)
        with self._changing(key) as (node, claim):
            self._check_empty(key)
            if self._claimed(key):
                raise DirectoryNotEmptyError("somebody is saving into the directory")
            if node.kind == "missing":
                clear(self._objects, key, node, claim)
            elif node.kind == "directory" and not remove_group(self._objects, key):
                raise StorageWriteError("another tool made this folder, by a mark that stays")

    def _claimed(self, key: str) -> list[str]:
        """Return the keys in a directory that there are claims on."""
        names, _ = self._objects.wait(self._objects.entries(key))
        return [below(key, claimed_name(name)) for name in names if is_temporary(name)]

    def _check_empty(self, key: str) -> None:
        names = self._objects.wait(self._nodes.names(key))
        if names.files or names.inner:
            raise DirectoryNotEmptyError("the directory is not empty; delete_all takes a tree")

    def delete_all(self, path: P) -> None:
        with self._located(path):
            key, node = self._present(path)
            if node.kind == "directory":
                self._delete_tree(key)
            elif not self._delete_value(key):
                raise PathNotFoundError("no such file or directory")

    def _delete_tree(self, key: str) -> None:
        """Delete each value under its claim, or chunks of one saved meanwhile could go with it."""
        while self._at(key).kind == "directory":
            directories, values, waiting = [key], [], [key]
            while waiting:
                listing = self._nodes.files(waiting, NameFilter(), recursive=True)
                files, waiting = self._objects.wait(listing)
                values += files
                directories += waiting
            deleted = any(each(self._delete_value, values))
            try:
                for directory in reversed(directories):
                    self._delete_group(directory)
            except DirectoryNotEmptyError:  # by what was saved meanwhile
                if deleted:
                    continue
                raise
            return
        self._delete_value(key)  # if that is what has taken its place

    def _present(self, path: P) -> tuple[str, Node]:
        key = self._key(path)
        if not key:
            raise InvalidPathError("the root always exists and stays")
        node = self._at(key)
        if node.kind == "missing":
            raise PathNotFoundError("no such file or directory")
        return key, node

    # Copies into another tree, and out of one

    @contextmanager
    def stored(self, path: P) -> Iterator[StoredArray | None]:
        """Yield the array at a path as it is stored, None for a file."""
        with self._located(path):
            key = self._key(path)
            node = self._value_at(key)
            if node.kind == "file":
                yield None
                return
            store = RemoteStore(self._objects, key)
            yield StoredArray(store, node.zarr_format, lambda: self._is_still(key, node))

    def put_stored(self, path: P, array: StoredArray, *, parents: bool = False) -> None:
        """Store a copy of an array at a free path."""

        def write(store: Store, **_in_place_of_another: Any) -> None:
            copy_stored(array, store)

        with self._located(path):
            key = self._new_key(path)
            self._make_groups(self._missing_parents(key, make=parents))
            with self._changing(key) as (node, claim):
                self._check_replaced(node, overwrite=False)
                kind = array.zarr_format
                put_array(self._objects, key, write, node, claim, axes=0, zarr_format=kind)

    def shows(self, path: P, zarr_format: ZarrFormat) -> bool:
        """Return whether the group above a path shows members of a format."""
        return is_shown(self._groups.marks(self._key(path)), zarr_format)

    def group_metadata(self, path: P) -> dict[str, bytes]:
        """Return the metadata files of the group at a path, {} if it is not a group."""
        with self._located(path):
            key = self._key(path)
            reads = (self._objects.get(below(key, name)) for name in GROUP_METADATA)
            found = zip(
                GROUP_METADATA, self._objects.wait(self._objects.together(reads)), strict=True
            )
        return {name: data for name, data in found if data is not None}

    def put_group(self, path: P, metadata: Mapping[str, bytes]) -> None:
        """Create a group with this metadata at a free path, and its parents."""
        with self._located(path):
            key = self._new_key(path)
            self._make_groups(self._missing_parents(key, make=True))
            self._put_group(key, metadata)

    def _put_group(self, key: str, metadata: Mapping[str, bytes]) -> None:
        with self._changing(key) as (there, claim):
            self._check_replaced(there, overwrite=False)
            clear(self._objects, key, there, claim)
            if not put_group(self._objects, key, metadata):
                raise PathExistsError("another one has just taken the path")

    def _format_in(self, key: str) -> ZarrFormat | None:
        """Return the format of the arrays in a directory, None if there are none."""
        waiting = [key]
        while waiting:
            files, waiting = self._objects.wait(
                self._nodes.files(waiting, NameFilter(), recursive=True)
            )
            for node in map(self._at, files):
                if node.kind == "array":
                    return node.zarr_format
        return None

    # Copies

    def copy(self, source: P, destination: P) -> None:
        origin, target, node = self._transfer(source, destination)
        with self._located(destination):
            self._copy(origin, target, node)

    def move(self, source: P, destination: P) -> None:
        origin, target, node = self._transfer(source, destination)
        with self._located(destination):
            if node.kind == "directory":
                self._copy(origin, target, node)
                self._delete_tree(origin)
                return
            with self._changing(origin):
                node = self._value_at(origin)
                self._copy(origin, target, node)
                remove_value(self._objects, origin, node)

    def _transfer(self, source: P, destination: P) -> tuple[str, str, Node]:
        with self._located(source):
            origin, node = self._present(source)
        with self._located(destination):
            target = self._new_key(destination)
            if self._at(target).kind != "missing":
                raise PathExistsError("the path exists already")
            self._missing_parents(target, make=False)
            if f"{target}/".startswith(f"{origin}/"):
                raise InvalidPathError(f"a directory cannot go into itself ({source!s})")
        return origin, target, node

    def _copy(self, source: str, target: str, node: Node) -> None:
        if node.kind == "directory":
            self._copy_group(source, target)
            return
        done = False
        while not done:
            with self._changing(target) as (there, claim):
                self._check_replaced(there, overwrite=False)
                clear(self._objects, target, there, claim)
                if node.kind == "array":
                    done = copy_array(self._objects, source, target, node, claim)
                else:
                    self._objects.wait(self._objects.copy([(source, target)]))
                    done = True
            if not done:  # it was replaced meanwhile
                with self._located(self._text(source)):
                    node = self._value_at(source)

    def _copy_group(self, source: str, target: str) -> None:
        names = self._objects.wait(self._nodes.names(source))
        stored = self.group_metadata(self._text(source))
        self._put_group(target, metadata_of_copy(stored, self._format_in(source)))
        for name in sorted(names.files | names.inner):
            child = below(source, name)
            inner = self._at(child)
            if inner.kind != "missing":
                self._copy(child, below(target, name), inner)


def _encoded(name: str, data: Any) -> bytes:
    check_file(data, name)
    file = io.BytesIO()
    format_of(name).save(file, data)
    return file.getvalue()


# Not in the body, which would register the class under the key.
RemoteZarr._backend_type = "zarr"  # noqa: SLF001 - its own
