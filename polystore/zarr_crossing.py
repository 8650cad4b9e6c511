"""Copies from one zarr tree into another: between stores, and between a store and a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polystore.exceptions import (
    PathNotFoundError,
    UnsupportedFormatError,
    UnsupportedOperationError,
)
from polystore.zarr_arrays import ArrayOptions
from polystore.zarr_local import LocalZarr

if TYPE_CHECKING:
    from polystore.zarr_remote import RemoteZarr

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
    for directory in directories:
        other.ensure_directory(directory)
    for path, place in values:
        _copy_value(tree, path, other, place)


def _copy_value(
    tree: LocalZarr | RemoteZarr, source: str, other: LocalZarr | RemoteZarr, target: str
) -> None:
    try:
        array: Any = tree.open(source)
    except UnsupportedFormatError:  # a file
        other.save(tree.load(source), target)
        return
    options = ArrayOptions(
        array.chunks,
        array.shards,
        fill_value=array.fill_value,
        attributes=dict(array.attrs),
    )
    other.save(tree.load(source), target, options=options)


def _below(
    tree: LocalZarr | RemoteZarr, source: str, target: str
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the directories of a copy, and of each value the path and that of its copy."""
    if tree.is_file(source):
        return [], [(source, target)]
    directories, values = [target], []
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
                directories.append(place)
                waiting.append((path, place))
    return directories, values
