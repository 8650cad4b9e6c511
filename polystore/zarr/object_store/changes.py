"""Changes at the keys of a store: groups are made, and values and trees deleted and copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy

from polystore.error_translation import located
from polystore.exceptions import (
    DirectoryNotEmptyError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageWriteError,
)
from polystore.filesystem.temporaries import is_temporary
from polystore.paths import NameFilter
from polystore.zarr.array.creation import ZarrFormat
from polystore.zarr.array.groups import GROUP_FILES, is_shown, member_format, metadata_of_copy
from polystore.zarr.object_store.client import RemoteObjects
from polystore.zarr.object_store.groups import RemoteGroups
from polystore.zarr.object_store.lock_objects import LockObject, lock_object, locked_name
from polystore.zarr.object_store.nodes import Node, below, parent_of
from polystore.zarr.object_store.parallel import each
from polystore.zarr.object_store.reader import KeyReader
from polystore.zarr.object_store.shared_array import (
    clear,
    copy_array,
    put_group,
    remove_group,
    remove_value,
)

__all__ = ["KeyChanges", "check_replaced"]


class KeyChanges:
    """Make groups at keys, and delete and copy what lies there. Errors name no path."""

    def __init__(
        self,
        objects: RemoteObjects,
        reader: KeyReader,
        *,
        rooted: bool,
        zarr_format: ZarrFormat | None,
    ) -> None:
        self._objects, self._reader = objects, reader
        self._is_marked = not rooted  # a bucket is made no group
        self._default_format = zarr_format
        self._wanted_format: ZarrFormat | None = None
        self._groups = RemoteGroups(objects, is_rooted=rooted)

    def of_format(self, zarr_format: ZarrFormat | None) -> KeyChanges:
        """Return the same, which makes new arrays and groups of this format, None for any."""
        changes = copy(self)
        changes._wanted_format = zarr_format  # noqa: SLF001 - its own kind
        return changes

    def new_format(self, key: str, replaced: Node | None = None) -> ZarrFormat:
        """Return the format of what is to be made at a key."""
        if self._wanted_format is None and replaced is not None and replaced.old:
            return 2
        return member_format(self._groups.marks(key), self._wanted_format, self._default_format)

    def shows(self, key: str, zarr_format: ZarrFormat) -> bool:
        """Return whether the group that a key lies in shows a member of a format."""
        return is_shown(self._groups.marks(key), zarr_format)

    @contextmanager
    def changing(self, key: str) -> Iterator[tuple[Node, LockObject]]:
        """Hold the lock of a key, and yield what is there under it."""
        with lock_object(self._objects, key) as lock:
            yield self._reader.at(key), lock

    # Groups

    def missing_parents(self, key: str, *, make: bool) -> list[str]:
        """Return the directories that have to be made above a key, from the top."""
        missing: list[str] = []
        parent = parent_of(key)
        while parent:
            node = self._reader.at(parent)
            if node.kind == "directory":
                break
            if node.kind != "missing":
                raise PathNotDirectoryError("a part of the path is a file")
            missing.append(parent)
            parent = parent_of(parent)
        if missing and not make:
            raise PathNotFoundError("the parent directory is missing; parents=True makes it")
        return missing[::-1]

    def make_groups(self, missing: Iterable[str]) -> None:
        self._mark_root()
        for key in missing:
            with self.changing(key) as (node, lock):
                if node.kind == "missing":
                    clear(self._objects, key, node, lock)
                    self._groups.forget(key)
                    name, metadata = GROUP_FILES[self.new_format(key)]
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

    def put_group(self, key: str, metadata: Mapping[str, bytes]) -> None:
        """Make a group of these metadata at a free key."""
        with self.changing(key) as (there, lock):
            check_replaced(there, overwrite=False)
            clear(self._objects, key, there, lock)
            if not put_group(self._objects, key, metadata):
                raise PathExistsError("another one has just taken the path")

    # Deletions

    def delete(self, key: str, delete_directory: Callable[[str], None]) -> None:
        if self._reader.existing(key).kind == "directory":
            delete_directory(key)
        elif not self._delete_value(key):
            raise PathNotFoundError("no such file or directory")

    def _delete_value(self, key: str) -> bool:
        """Delete an array or a file; return whether there was one."""
        with self.changing(key) as (node, _):
            if node.kind not in ("array", "file"):
                return False
            remove_value(self._objects, key, node)
            return True

    def delete_group(self, key: str) -> None:
        """Delete a directory in which nothing is, once those that save in it have ended."""
        self._check_empty(key)
        for location in self._locked(key):
            with self.changing(location) as (node, lock):
                if node.kind in ("missing", "file"):
                    clear(self._objects, location, node, lock)
        with self.changing(key) as (node, lock):
            self._check_empty(key)
            if self._locked(key):
                raise DirectoryNotEmptyError("somebody is saving into the directory")
            if node.kind == "missing":
                clear(self._objects, key, node, lock)
            elif node.kind == "directory" and not remove_group(self._objects, key):
                raise StorageWriteError("another tool made this folder, by a mark that stays")

    def _locked(self, key: str) -> list[str]:
        """Return the keys in a directory that are locked."""
        names, _ = self._objects.wait(self._objects.entries(key))
        return [below(key, locked_name(name)) for name in names if is_temporary(name)]

    def _check_empty(self, key: str) -> None:
        names = self._reader.names(key)
        if names.files or names.inner:
            raise DirectoryNotEmptyError("the directory is not empty; delete_all takes a tree")

    def delete_tree(self, key: str) -> None:
        """Delete each value under its lock, or chunks of one being saved could go with it."""
        while self._reader.at(key).kind == "directory":
            levels = list(self._reader.levels(key, NameFilter()))
            deleted = any(each(self._delete_value, [key for _, keys in levels for key in keys]))
            try:
                for directories, _ in reversed(levels):
                    for directory in directories:
                        self.delete_group(directory)
            except DirectoryNotEmptyError:  # of what was saved concurrently
                if deleted:
                    continue
                raise
            return
        self._delete_value(key)  # if that is what has taken its place

    # Copies

    def copy(self, source: str, target: str, node: Node) -> None:
        """Copy a value or a tree to a free key."""
        if node.kind == "directory":
            self._copy_group(source, target)
            return
        done = False
        while not done:
            with self.changing(target) as (there, lock):
                check_replaced(there, overwrite=False)
                clear(self._objects, target, there, lock)
                if node.kind == "array":
                    done = copy_array(self._objects, source, target, node, lock)
                else:
                    self._objects.wait(self._objects.copy([(source, target)]))
                    done = True
            if not done:  # it was replaced concurrently
                with located(self._reader.text(source), "zarr"):
                    node = self._reader.value(source)

    def _copy_group(self, source: str, target: str) -> None:
        names, stored = self._reader.names(source), self._reader.group_metadata(source)
        self.put_group(target, metadata_of_copy(stored, self._format_in(source)))
        for name in sorted(names.files | names.inner):
            child = below(source, name)
            inner = self._reader.at(child)
            if inner.kind != "missing":
                self.copy(child, below(target, name), inner)

    def _format_in(self, key: str) -> ZarrFormat | None:
        """Return the format of the arrays in a directory, None if there are none."""
        for _, values in self._reader.levels(key, NameFilter()):
            for node in map(self._reader.at, values):
                if node.kind == "array":
                    return node.zarr_format
        return None

    def move(self, source: str, target: str, node: Node) -> None:
        """Move as `copy` copies."""
        if node.kind == "directory":
            self.copy(source, target, node)
            self.delete_tree(source)
            return
        with self.changing(source):
            node = self._reader.value(source)
            self.copy(source, target, node)
            remove_value(self._objects, source, node)


def check_replaced(node: Node, *, overwrite: bool) -> None:
    """Raise unless a value can be saved where a node is."""
    if node.kind == "directory":
        kind = PathIsDirectoryError if overwrite else PathExistsError
        raise kind("the path is a directory")
    if node.kind != "missing" and not overwrite:
        raise PathExistsError("the path exists already; overwrite=True lets a save replace it")
