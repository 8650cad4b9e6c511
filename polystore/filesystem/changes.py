"""Changes at a place of a local tree, of which nobody sees a part.

A save prepares its place, writes to a temporary one and publishes that in one step.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from polystore.arguments import path_exists
from polystore.exceptions import (
    PathExistsError,
    PathIsDirectoryError,
    StorageError,
)
from polystore.filesystem.dir_fd import Place, check_no_device
from polystore.filesystem.renames import publish_file, put, rename_new, replace_only
from polystore.filesystem.retry import MOST_ATTEMPTS
from polystore.filesystem.temporaries import (
    is_temporary,
    keep_mode,
    remove,
    sweep,
    temporary,
)
from polystore.filesystem.tree_operations import copy_tree, delete_tree, sync_tree
from polystore.filesystem.values import FileValues
from polystore.paths import P, as_text

__all__ = [
    "check_free",
    "check_replaced",
    "delete",
    "delete_all",
    "publish",
    "publish_copy",
    "publish_directory",
    "publish_link",
]


def publish(
    values: FileValues,
    path: P,
    write: Callable[[Place], None],
    *,
    overwrite: bool,
    parents: bool,
    durable: bool = False,
    known: os.stat_result | None = None,
) -> None:
    """Put what `write` writes to a temporary place at `path`, in one step.

    If the status of a `known` file is given, it takes the place of that file only; if another one
    is there, it raises `ReplacedError`.
    """
    with (
        _prepared(values, path, overwrite, parents, durable) as place,
        temporary(place, hidden=values.has_directories) as new,
    ):
        write(new)
        if overwrite:
            keep_mode(place, new)
        values.before_change(path, new, place)
        if known is not None:
            replace_only(known, new, place)
        elif overwrite and values.has_directories:
            _put(new, place, partial(_check_replaceable, values))
        else:
            publish_file(new, place, overwrite=overwrite)
        if durable:
            place.directory.sync()


@contextmanager
def _prepared(
    values: FileValues, path: P, overwrite: bool, parents: bool, durable: bool
) -> Iterator[Place]:
    """Yield the place to publish at; parents that it makes go again if the block fails."""
    made: list[str] = []

    def make(directory: Place) -> None:
        values.make_directory(directory, path)
        made.append(directory.name)
        if durable:
            with directory.hold() as held:
                sync_tree(held)
            directory.directory.sync()

    text = as_text(path)
    try:
        with values.places.slot(path, make=make if parents else None) as place:
            values.check_name(place.name)
            check_replaced(values, place, overwrite=overwrite)
            sweep(place.directory, f"{values.places.root}:{os.path.dirname(text)}")
            yield place
    except BaseException:
        # By name, since the places they were made at may be none any more.
        for _ in made:
            text = os.path.dirname(text.rstrip("/"))
            with suppress(OSError, StorageError), values.places.itself(text) as directory:
                with directory.hold() as held:
                    is_used = any(map(is_temporary, held.names()))
                if not is_used:
                    values.remove_directory(directory, text)
        raise


def publish_directory(values: FileValues, path: P) -> None:
    """Make a directory and its parents, where they are missing."""

    def make(directory: Place) -> None:
        values.make_directory(directory, path)

    with values.places.slot(path, make=make) as place:
        if values.has_directory(place):
            return
        with suppress(FileExistsError):
            make(place)
            return
        if values.has_directory(place):
            return
        # What was deleted again raises that it is missing, and is tried again.
        if not stat.S_ISDIR(place.status().st_mode) or values.has_value(place):
            raise PathExistsError("the path is a file or a link that leads nowhere")


def check_replaced(values: FileValues, place: Place, *, overwrite: bool) -> None:
    """Raise unless a value can be saved at a place."""
    try:
        status = place.status()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode) and values.has_directory(place):
        kind = PathIsDirectoryError if overwrite else PathExistsError
        raise kind("the path is a directory")
    if not overwrite:
        raise path_exists()
    check_no_device(status)


def _check_replaceable(values: FileValues, place: Place) -> None:
    check_no_device(place.status())
    if values.has_directory(place):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), place.name)


def _put(new: Place, place: Place, replaceable: Callable[[Place], None]) -> None:
    replaced = put(new, place, replaceable)
    if replaced:
        remove(replaced)


def publish_copy(values: FileValues, origin: Place, place: Place) -> bool:
    """Copy to a free place; return False if a part was deleted or replaced while it was copied."""
    with temporary(place, hidden=values.has_directories) as new:
        try:
            copy_tree(origin, new, skip=is_temporary)
        except FileNotFoundError:
            origin.status()
            remove(new)
            return False
        rename_new(new, place)
        return True


def publish_link(
    values: FileValues, target: str, path: P, place: Place, *, overwrite: bool
) -> None:
    """Make a link at a place that is free, or with `overwrite` another link's."""
    with temporary(place, hidden=values.has_directories) as new:
        new.make_link(target)
        values.before_change(path, new)
        if overwrite:
            _put(new, place, partial(check_free, over_link=True))
        else:
            rename_new(new, place)


def check_free(place: Place, *, over_link: bool) -> None:
    """Raise `PathExistsError` if something is at a place, unless it is a link and may be."""
    with suppress(FileNotFoundError):
        is_link = stat.S_ISLNK(place.status().st_mode)
        if not (is_link and over_link):
            raise PathExistsError("the path exists already")


def delete(values: FileValues, place: Place, path: P) -> None:
    """Delete a value, a link or an empty directory."""

    def attempt() -> None:
        if not place.is_directory():
            values.before_change(path, place)
            place.remove_file()
            return
        if values.has_value(place):
            values.before_change(path, place)
            if _take_away(values, place, values.has_value):
                return
        values.remove_directory(place, path)

    _while_its_kind_changes(attempt)


def delete_all(values: FileValues, place: Place, path: P) -> None:
    """Delete a value, a link or a directory with all that is in it."""

    def attempt() -> None:
        if place.is_directory():
            _take_away(values, place, Place.exists)
        else:
            place.remove_file()

    values.before_change(path, place)
    _while_its_kind_changes(attempt)


def _while_its_kind_changes(attempt: Callable[[], None]) -> None:
    """Try again while a file and an array replace each other."""
    for _ in range(MOST_ATTEMPTS - 1):
        with suppress(IsADirectoryError, NotADirectoryError):
            return attempt()
    return attempt()


def _take_away(values: FileValues, place: Place, is_meant: Callable[[Place], bool]) -> bool:
    """Rename a directory out of sight and delete it; return False if it is not what is meant."""
    with temporary(place, hidden=values.has_directories) as aside:
        try:
            place.rename(aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            delete_tree(place)  # of a layer below, as containers have, that cannot move
            return True
        if not is_meant(aside):
            rename_new(aside, place)
            return False
        try:
            delete_tree(aside)
        except BaseException:
            with suppress(OSError):
                rename_new(aside, place)
            raise
        return True
