"""The zarr backend's tree in a store that a URL names, such as ``s3://bucket/plates``."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, NoReturn

import zarr
from zarr.abc.store import Store

from polystore.arguments import check_apart
from polystore.error_translation import located
from polystore.exceptions import (
    InvalidPathError,
    PathExistsError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    UnsupportedFormatError,
    UnsupportedOperationError,
)
from polystore.filesystem.retry import read_until_stable
from polystore.formats import format_of
from polystore.paths import NameFilter, P, as_text, file_order
from polystore.region import Region, put_region
from polystore.stat import Stat
from polystore.traversal import walk_tree
from polystore.zarr.array.creation import (
    DEFAULTS,
    ArrayOptions,
    ZarrFormat,
    as_numbers,
    check_file,
    create,
)
from polystore.zarr.array.reading import Mode, open_node
from polystore.zarr.array.stored import StoredArray, copy_stored
from polystore.zarr.array.updating import Shared, write_region
from polystore.zarr.object_store.changes import KeyChanges, check_replaced
from polystore.zarr.object_store.client import RemoteObjects
from polystore.zarr.object_store.nodes import Node, below, is_hidden, parent_of
from polystore.zarr.object_store.parallel import each, load_together
from polystore.zarr.object_store.publishing import SharedObjects
from polystore.zarr.object_store.reader import KeyReader
from polystore.zarr.object_store.shared_array import put_array, put_file
from polystore.zarr.object_store.urls import Url
from polystore.zarr.object_store.zarr_store import RemoteStore

__all__ = ["RemoteZarr"]


class RemoteZarr:
    """Store arrays of numbers as zarr arrays below a URL, and any other value as an object.

    A save is atomic, also where several processes save one path; a copy, a move or a deletion of
    a tree is not. What the methods promise is said by `polystore.zarr.ZarrBackend`.

    - `url`: where the tree lies
    - `options`: fsspec's ``storage_options``
    - `rooted`: whether paths are those of one tree rooted at ``/``; or URLs, of which `url` is the
      site
    - `zarr_format`: the format where no group has one yet; by default 3
    """

    def __init__(
        self,
        url: Url,
        options: Mapping[str, Any],
        *,
        rooted: bool,
        zarr_format: ZarrFormat | None = None,
    ) -> None:
        self._objects = RemoteObjects(url, options)
        self._reader = KeyReader(self._objects, "" if rooted else url.site)
        self._changes = KeyChanges(
            self._objects, self._reader, rooted=rooted, zarr_format=zarr_format
        )

    def _located(self, path: P) -> AbstractContextManager[None]:
        return located(path, "zarr")

    @contextmanager
    def _at(self, path: P, *, new: bool = False) -> Iterator[str]:
        """Yield the key of a path, at which something is to be made if `new`."""
        with self._located(path):
            yield self._new_key(path) if new else self._reader.key(path)

    def _new_key(self, path: P) -> str:
        """Return the key of a path that something is to be made at."""
        key = self._reader.key(path)
        if any(is_hidden(name) for name in key.split("/")):
            raise InvalidPathError("zarr, or a save, keeps something of its own under this name")
        return key

    # Questions

    def exists(self, path: P) -> bool:
        return self._asked(path).kind != "missing"

    def is_file(self, path: P) -> bool:
        return self._asked(path).kind in ("array", "file")

    def is_dir(self, path: P) -> bool:
        return self._asked(path).kind == "directory"

    def is_symlink(self, path: P) -> bool:
        return False

    def _asked(self, path: P) -> Node:
        with self._at(path) as key:
            try:
                return self._reader.at(key)
            except PathNotFoundError:  # there is no such bucket
                return Node("missing")

    def stat(self, path: P) -> Stat:
        node = self._asked(path)
        with self._at(path) as key:
            return {
                "type": "file" if node.kind == "array" else node.kind,
                "path": self._reader.text(key),
                "exists": node.kind != "missing",
                **self._reader.facts(key, node),
            }

    def list_dir(self, path: P) -> list[str]:
        with self._at(path) as key:
            self._reader.check_directory(key)
            names = self._reader.names(key)
            return sorted(names.files | names.inner)

    def watching(self, path: P, **options: Any) -> NoReturn:
        raise UnsupportedOperationError(
            "object stores do not report changes; list the directory again",
            path=as_text(path),
            backend="zarr",
        )

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        selected = NameFilter(pattern, extensions)
        with self._located(path):
            top = self._reader.key(path)
            self._reader.check_directory(top)
            levels = self._reader.levels(top, selected, recursive=recursive)
            found = (self._reader.text(key) for _, values in levels for key in values)
            return sorted(found, key=file_order)

    def walk(self, path: P, recursive: bool = True) -> tuple[list[str], list[str], list[str]]:
        files = self.list_files(path, recursive=recursive)  # in fewer requests than one for each
        return walk_tree(self, str(path), recursive, set(files))

    def content_identity(self, path: P) -> None:
        return None

    # Reading

    def open(self, path: P, mode: Mode = "r") -> zarr.Array[Any] | zarr.Group:
        with self._at(path) as key:
            if self._reader.existing(key).kind == "file":
                raise UnsupportedFormatError("the path is a file, neither an array nor a group")
            return open_node(RemoteStore(self._objects, key, read_only=mode == "r"), mode)

    def load(
        self,
        path: P,
        *,
        region: Region | None = None,
        suffix: str | None = None,
        **options: Any,
    ) -> Any:
        with self._located(path):
            return self._reader.load(self._reader.key(path), region, suffix, options)

    def load_all(self, paths: Sequence[P], **options: Any) -> Iterator[Any]:
        return load_together(partial(self.load, **options), paths)

    def apart(self, path: P) -> list[str]:
        """Return the names of what a path has in addition to what `load` returns."""
        with suppress(StorageError):
            return self._reader.apart(self._reader.key(path))
        return []  # load reports the error

    # Writing

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
        changes = self._changes
        if options.zarr_format is not None:
            changes = changes.of_format(options.zarr_format)
        with self._at(path, new=True) as key:
            array = as_numbers(data) if suffix is None else None
            encoded = _encoded(suffix or key, data) if array is None else b""
            missing = changes.missing_parents(key, make=parents)
            if not key:
                check_replaced(self._reader.at(key), overwrite=overwrite)
            changes.make_groups(missing)
            with changes.changing(key) as (node, lock):
                check_replaced(node, overwrite=overwrite)
                if node.kind == "missing":
                    changes.missing_parents(key, make=True)  # an array may be there by now
                if array is None:
                    put_file(self._objects, key, encoded, node, lock)
                else:
                    kind = changes.new_format(key, node)
                    write = partial(create, array=array, options=options, zarr_format=kind)
                    axes = array.ndim
                    put_array(self._objects, key, write, node, lock, axes=axes, zarr_format=kind)

    def _save_region(self, data: Any, path: P, region: Region) -> None:
        with self._at(path) as key:

            def write(node: Node) -> bool:
                if node.kind == "array":
                    write_region(SharedObjects(self._objects, key, node), region, data)
                return node.kind == "array"

            # An array that has taken the place of that one is written to as well.
            look = lambda: nullcontext(self._reader.value(key))  # noqa: E731
            if read_until_stable(look, write, partial(self._reader.is_still, key)):
                return
        array = self.load(path)
        put_region(array, region, data, path=path, backend="zarr")
        self.save(array, path, overwrite=True)

    @contextmanager
    def shared(self, path: P, *, durable: bool) -> Iterator[Shared]:
        """Yield an array that others change too, whose shape nobody else changes."""
        with self._at(path) as key:
            self._reader.value(key)
            with self._changes.changing(key):
                node = self._reader.value(key)
                if node.kind == "file":
                    raise UnsupportedOperationError("only zarr arrays grow, and this is a file")
                yield SharedObjects(self._objects, key, node)

    def check_batch(self, paths: list[str], **options: Any) -> None:
        """Raise what a batch to `paths` would raise whatever the values."""
        each(partial(self._check_save, **options), paths)
        keys = [self._reader.key(path) for path in paths]
        check_apart(keys, parent_of, paths, backend="zarr")

    def _check_save(
        self, path: str, *, overwrite: bool = False, parents: bool = False, **_options: Any
    ) -> None:
        with self._at(path, new=True) as key:
            check_replaced(self._reader.at(key), overwrite=overwrite)
            self._changes.missing_parents(key, make=parents)

    def ensure_directory(self, path: P) -> str:
        with self._at(path, new=True) as key:
            try:
                self._make_parents(below(key, "x"))
            except PathNotDirectoryError as error:
                raise PathExistsError("the path, or a part of it, is a file") from error
            if not key:
                self._reader.at(key)  # raises where there is no bucket
            return self._reader.text(key)

    def _make_parents(self, key: str, *, make: bool = True) -> None:
        self._changes.make_groups(self._changes.missing_parents(key, make=make))

    def delete(self, path: P) -> None:
        with self._located(path):
            self._changes.delete(self._present(path)[0], self._changes.delete_group)

    def delete_all(self, path: P) -> None:
        with self._located(path):
            self._changes.delete(self._present(path)[0], self._changes.delete_tree)

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        raise UnsupportedOperationError("a store has no links", path=str(link), backend="zarr")

    def _present(self, path: P) -> tuple[str, Node]:
        key = self._reader.key(path)
        if not key:
            raise InvalidPathError("the root always exists and stays")
        return key, self._reader.existing(key)

    def copy(self, source: P, destination: P) -> None:
        origin, target, node = self._transfer(source, destination)
        with self._located(destination):
            self._changes.copy(origin, target, node)

    def move(self, source: P, destination: P) -> None:
        origin, target, node = self._transfer(source, destination)
        with self._located(destination):
            self._changes.move(origin, target, node)

    def _transfer(self, source: P, destination: P) -> tuple[str, str, Node]:
        with self._located(source):
            origin, node = self._present(source)
        with self._located(destination):
            target = self._new_key(destination)
            if self._reader.at(target).kind != "missing":
                raise PathExistsError("the path exists already")
            self._changes.missing_parents(target, make=False)
            if f"{target}/".startswith(f"{origin}/"):
                raise InvalidPathError(f"a directory cannot go into itself ({source!s})")
        return origin, target, node

    # Copies into another tree, and out of one

    @contextmanager
    def stored(self, path: P) -> Iterator[StoredArray | None]:
        """Yield the array at a path as it is stored, None for a file."""
        with self._at(path) as key:
            node = self._reader.value(key)
            if node.kind == "file":
                yield None
                return
            store = RemoteStore(self._objects, key)
            is_still_there = partial(self._reader.is_still, key, node)
            yield StoredArray(store, node.zarr_format, is_still_there)

    def put_stored(self, path: P, array: StoredArray, *, parents: bool = False) -> None:
        """Store a copy of an array at a free path."""

        def write(store: Store, **_in_place_of_another: Any) -> None:
            copy_stored(array, store)

        with self._at(path, new=True) as key:
            self._make_parents(key, make=parents)
            with self._changes.changing(key) as (node, lock):
                check_replaced(node, overwrite=False)
                kind = array.zarr_format
                put_array(self._objects, key, write, node, lock, axes=0, zarr_format=kind)

    def shows(self, path: P, zarr_format: ZarrFormat) -> bool:
        """Return whether the group above a path shows members of a format."""
        return self._changes.shows(self._reader.key(path), zarr_format)

    def group_metadata(self, path: P) -> dict[str, bytes]:
        """Return the metadata files of the group at a path, {} if it is not a group."""
        with self._located(path):
            return self._reader.group_metadata(self._reader.key(path))

    def put_group(self, path: P, metadata: Mapping[str, bytes]) -> None:
        """Create a group with this metadata at a free path, and its parents."""
        with self._at(path, new=True) as key:
            self._make_parents(key)
            self._changes.put_group(key, metadata)


def _encoded(name: str, data: Any) -> bytes:
    check_file(data, name)
    file = io.BytesIO()
    format_of(name).save(file, data)
    return file.getvalue()
