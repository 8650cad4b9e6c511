"""Copies from one zarr tree into another: between stores, and between a store and a directory.

Arrays, groups and files are copied without decoding, so that a copy loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from polystore.exceptions import (
    PathNotFoundError,
    UnsupportedFormatError,
    UnsupportedOperationError,
)
from polystore.filesystem.retry import MOST_ATTEMPTS
from polystore.transfer.copying import RAW
from polystore.zarr.array.creation import ArrayOptions, ZarrFormat, as_numbers
from polystore.zarr.array.groups import metadata_of_copy
from polystore.zarr.array.reading import open_array
from polystore.zarr.array.stored import ArrayChangedError, Packed, StoredArray, packed, unpacked
from polystore.zarr.trees import AnyTree

__all__ = ["copy", "create_link", "move", "pack", "put_packed"]

T = TypeVar("T")


def copy(tree: AnyTree, source: str, other: AnyTree, target: str) -> None:
    """Copy as `ZarrBackend.copy` does, from a path of one tree to a path of another, or the same.

    Raises `UnsupportedOperationError` before anything is written, if a link to a directory would go
    into the other tree.
    """
    if other is tree and not _changes_format(tree, source, target):
        tree.copy(source, target)
    else:
        _copy_across(tree, source, other, target)


def move(tree: AnyTree, source: str, other: AnyTree, target: str) -> None:
    """Move as `copy` copies."""
    if other is tree and not _changes_format(tree, source, target):
        tree.move(source, target)
    else:
        _copy_across(tree, source, other, target)
        tree.delete_all(source)


def create_link(tree: AnyTree, source: str, other: AnyTree, link: str, *, overwrite: bool) -> None:
    """Make a link at a path of one tree to a path of another, which must be the same."""
    if other is not tree:
        message = "a link cannot lead into another store"
        raise UnsupportedOperationError(message, path=link, backend="zarr")
    tree.create_symlink(source, link, overwrite=overwrite)


def _changes_format(tree: AnyTree, source: str, target: str) -> bool:
    """Return whether a source is an array of a format that the target's group does not show."""
    if not tree.is_file(source):
        return False
    kind = _format_at(tree, source)
    return kind is not None and not tree.shows(target, kind)


def _copy_across(tree: AnyTree, source: str, other: AnyTree, target: str) -> None:
    """Copy every value at and below a path of one tree into the other."""
    if not tree.exists(source):
        raise PathNotFoundError("no such file or directory", path=source, backend="zarr")
    other.check_batch([target])
    directories, values = _below(tree, source, target)
    for path, location in directories:
        other.put_group(location, _metadata_of_copy(tree, path))
    for path, location in values:
        if not _with_stored(tree, path, partial(_put_array, other, location)):
            other.save(tree.load(path, suffix=RAW), location, suffix=RAW)


def pack(tree: AnyTree, path: str) -> Packed | bytes:
    """Return an array or a group for `put_packed` elsewhere, or the bytes of a file."""
    if tree.is_dir(path):
        return Packed(_metadata_of_copy(tree, path), is_group=True)
    found = _with_stored(tree, path, packed)
    data: bytes = tree.load(path, suffix=RAW) if found is None else b""
    return found or data


def put_packed(tree: AnyTree, path: str, value: Packed, *, parents: bool = False) -> None:
    """Store a packed array or group at a free path."""
    if value.is_group:
        tree.put_group(path, value.contents)
    else:
        _put_array(tree, path, unpacked(value), parents=parents)


def _put_array(tree: AnyTree, path: str, array: StoredArray, *, parents: bool = False) -> bool:
    """Store a copy of an array in the format of the target's group."""
    if tree.shows(path, array.zarr_format):
        tree.put_stored(path, array, parents=parents)
        return True
    opened = open_array(array.store)
    if as_numbers(opened.dtype.type()) is None:
        raise UnsupportedFormatError(
            f"the group has another zarr format than the array, and only numbers can be "
            f"converted, not {opened.dtype}",
            path=path,
            backend="zarr",
        )
    tree.save(opened[...], path, parents=parents, options=ArrayOptions(like=opened))
    return True


def _with_stored(tree: AnyTree, path: str, use: Callable[[StoredArray], T]) -> T | None:
    """Return what `use` makes of an array, None for a file; retry if the array was replaced."""
    for attempt in range(1, MOST_ATTEMPTS + 1):
        with tree.stored(path) as array:
            if array is None:
                return None
            try:
                return use(array)
            except ArrayChangedError:
                if attempt == MOST_ATTEMPTS:
                    raise
    return None


def _metadata_of_copy(tree: AnyTree, path: str) -> dict[str, bytes]:
    metadata = tree.group_metadata(path)
    if metadata.keys() & {"zarr.json", ".zgroup"}:
        return metadata_of_copy(metadata)
    inner = (_format_at(tree, value) for value in tree.list_files(path, recursive=True))
    return metadata_of_copy({}, next(filter(None, inner), None))


def _format_at(tree: AnyTree, path: str) -> ZarrFormat | None:
    """Return the format of the array at a path, None for a file."""
    with tree.stored(path) as array:
        return None if array is None else array.zarr_format


def _below(
    tree: AnyTree, source: str, target: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the paths of directories, and of values, each with that of its copy."""
    if tree.is_file(source):
        return [], [(source, target)]
    directories, values = [(source, target)], []
    waiting = [(source.rstrip("/"), target.rstrip("/"))]
    while waiting:
        directory, copy = waiting.pop()
        for name in tree.list_dir(directory or "/"):
            path, location = f"{directory}/{name}", f"{copy}/{name}"
            if tree.is_file(path):
                values.append((path, location))
            elif tree.is_dir(path):
                if tree.is_symlink(path):
                    raise UnsupportedOperationError(
                        "a link to a directory cannot go into another store",
                        path=path,
                        backend="zarr",
                    )
                directories.append((path, location))
                waiting.append((path, location))
    return directories, values
