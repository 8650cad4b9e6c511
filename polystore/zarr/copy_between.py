"""Copies from one zarr tree into another: between stores, and between a store and a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polystore.exceptions import (
    PathNotFoundError,
    UnsupportedFormatError,
    UnsupportedOperationError,
)
from polystore.zarr.array.creation import ArrayOptions
from polystore.zarr.local.tree import LocalZarr

if TYPE_CHECKING:
    from polystore.zarr.object_store.tree import RemoteZarr

__all__ = ["copy_across"]


def copy_across(
    tree: LocalZarr | RemoteZarr, source: str, other: LocalZarr | RemoteZarr, target: str
) -> None:
    """Load every value at and below a path of one tree, and save it in the other.

    Raises
    ------
    PathNotFoundError
        If the source or the target's parent is missing.
    PathExistsError
        If the target exists.
    UnsupportedOperationError
        Before anything is written, if a link to a directory is among them.
    """
    if not tree.exists(source):
        raise PathNotFoundError("no such file or directory", path=source, backend="zarr")
    other.check_batch([target])
    directories, values = _below(tree, source, target)
    for path, place in directories:
        _copy_group(tree, path, other, place)
    for path, place in values:
        _copy_value(tree, path, other, place)


def _copy_group(
    tree: LocalZarr | RemoteZarr, source: str, other: LocalZarr | RemoteZarr, target: str
) -> None:
    """Make a directory with the attributes of a group, and its format if no other group has one."""
    try:
        group: Any = tree.open(source)
    except UnsupportedFormatError:  # a directory that is no group
        other.ensure_directory(target)
        return
    try:
        other.of_format(group.metadata.zarr_format).ensure_directory(target)
    except UnsupportedFormatError:
        other.ensure_directory(target)
    attributes = dict(group.attrs)
    if attributes:
        made: Any = other.open(target, "r+")
        made.attrs.update(attributes)


def _copy_value(
    tree: LocalZarr | RemoteZarr, source: str, other: LocalZarr | RemoteZarr, target: str
) -> None:
    try:
        array: Any = tree.open(source)
    except UnsupportedFormatError:  # a file
        other.save(tree.load(source), target)
        return
    other.save(tree.load(source), target, options=ArrayOptions(like=array))


def _below(
    tree: LocalZarr | RemoteZarr, source: str, target: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the paths of directories, and of values, each with that of its copy."""
    if tree.is_file(source):
        return [], [(source, target)]
    directories, values = [(source, target)], []
    waiting = [(source.rstrip("/"), target.rstrip("/"))]
    while waiting:
        directory, copy = waiting.pop()
        for name in tree.list_dir(directory or "/"):
            path, place = f"{directory}/{name}", f"{copy}/{name}"
            if tree.is_file(path):
                values.append((path, place))
            elif tree.is_dir(path):
                if tree.is_symlink(path):
                    raise UnsupportedOperationError(
                        "a link to a directory cannot go into another store",
                        path=path,
                        backend="zarr",
                    )
                directories.append((path, place))
                waiting.append((path, place))
    return directories, values
