"""Changes at a location of a local tree, of which nobody sees a part.

A save prepares its location, writes to a temporary one and publishes that in one step.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from polystore.arguments import path_exists
from polystore.exceptions import (
    PathExistsError,
    PathIsDirectoryError,
    StorageError,
)
from polystore.filesystem.dir_fd import Location, check_no_device
from polystore.filesystem.retry import MOST_ATTEMPTS
from polystore.filesystem.temporaries import (
    is_temporary,
    keep_mode,
    publish_file,
    remove,
    rename_new,
    replace_checked,
    replace_only,
    sweep,
    temporary,
)
from polystore.filesystem.tree_operations import copy_tree, delete_tree, sync_tree
from polystore.filesystem.values import FileValues
from polystore.paths import P, as_text

__all__ = [
    "again_while_missing",
    "check_free",
    "check_replaced",
    "delete",
    "delete_all",
    "publish",
    "publish_copy",
    "publish_directory",
    "publish_link",
]

T = TypeVar("T")


def again_while_missing(attempt: Callable[[], T]) -> T:
    """Try again while a directory is deleted between its creation and its use."""
    for _ in range(MOST_ATTEMPTS):
        with suppress(FileNotFoundError):
            return attempt()
    return attempt()


def publish(
    values: FileValues,
    path: P,
    write: Callable[[Location], None],
    *,
    overwrite: bool,
    parents: bool,
    durable: bool = False,
    known: os.stat_result | None = None,
) -> None:
    """Put what `write` writes to a temporary location at `path`, in one step.

    If the status of a `known` file is given, it takes the place of that file only; if another one
    is there, it raises `ReplacedError`.
    """
    with (
        _prepared(values, path, overwrite, parents, durable) as location,
        temporary(location, hidden=values.has_directories) as new,
    ):
        write(new)
        if overwrite:
            keep_mode(location, new)
        values.before_change(path, new, location)
        if known is not None:
            replace_only(known, new, location)
        elif overwrite and values.has_directories:
            _put(new, location, partial(_check_replaceable, values))
        else:
            publish_file(new, location, overwrite=overwrite)
        if durable:
            location.directory.sync()


@contextmanager
def _prepared(
    values: FileValues, path: P, overwrite: bool, parents: bool, durable: bool
) -> Iterator[Location]:
    """Yield the location to publish at; parents that it makes go again if the block fails."""
    made: list[str] = []
    make = partial(_make, values, path, made, durable)
    text = as_text(path)
    try:
        with (
            values.resolver.resolve_for_write(path, make=make if parents else None) as location,
            _in_place(values, path, location),
        ):
            values.check_name(location.name)
            check_replaced(values, location, overwrite=overwrite)
            sweep(location.directory, f"{values.resolver.root}:{os.path.dirname(text)}")
            yield location
    except BaseException:
        # By name, since the directories they were made in may be gone.
        for _ in made:
            text = os.path.dirname(text.rstrip("/"))
            with (
                suppress(OSError, StorageError),
                values.resolver.resolve_nofollow(text) as directory,
            ):
                with directory.hold() as handle:
                    is_used = any(map(is_temporary, handle.names()))
                if not is_used:
                    values.remove_directory(directory, text)
        raise


def _make(values: FileValues, path: P, made: list[str], durable: bool, directory: Location) -> None:
    """Make a directory on the way to a path, and add its name to those that are `made`."""
    if not made:
        values.forget(path)
    values.make_directory(directory)
    made.append(directory.name)
    if durable:
        with directory.hold() as handle:
            sync_tree(handle)
        directory.directory.sync()


@contextmanager
def _in_place(values: FileValues, path: P, location: Location) -> Iterator[None]:
    """Take nothing for a directory that `path` no longer leads to: then it is missing.

    An array that is deleted with the tree around it looks like a directory once its metadata are
    gone.
    """
    try:
        yield
    except (IsADirectoryError, PathIsDirectoryError):
        with values.resolver.resolve_for_write(path) as now:
            if now.directory.identity() == location.directory.identity():
                raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), location.name) from None


def publish_directory(values: FileValues, path: P) -> None:
    """Make a directory and its parents, where they are missing."""
    make = partial(_make, values, path, [], False)
    with values.resolver.resolve_for_write(path, make=make) as location:
        if values.has_directory(location):
            return
        with suppress(FileExistsError):
            make(location)
            return
        if values.has_directory(location):
            return
        # What was deleted again raises that it is missing, and is tried again.
        if not stat.S_ISDIR(location.status().st_mode) or values.has_value(location):
            raise PathExistsError("the path is a file or a link that leads nowhere")


def check_replaced(values: FileValues, location: Location, *, overwrite: bool) -> None:
    """Raise unless a value can be saved at a location."""
    try:
        status = location.status()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode) and values.has_directory(location):
        kind = PathIsDirectoryError if overwrite else PathExistsError
        raise kind("the path is a directory")
    if not overwrite:
        raise path_exists()
    check_no_device(status)


def _check_replaceable(values: FileValues, location: Location) -> None:
    check_no_device(location.status())
    if values.has_directory(location):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), location.name)


def _put(new: Location, location: Location, replaceable: Callable[[Location], None]) -> None:
    replaced = replace_checked(new, location, replaceable)
    if replaced:
        remove(replaced)


def publish_copy(values: FileValues, origin: Location, location: Location) -> bool:
    """Copy to a free location; return False if a part was deleted or replaced by then."""
    with temporary(location, hidden=values.has_directories) as new:
        try:
            copy_tree(origin, new, skip=is_temporary)
        except FileNotFoundError:
            origin.status()
            remove(new)
            return False
        rename_new(new, location)
        return True


def publish_link(
    values: FileValues, target: str, path: P, location: Location, *, overwrite: bool
) -> None:
    """Make a link at a free location, or with `overwrite` in the place of a value or a link."""
    with temporary(location, hidden=values.has_directories) as new:
        new.make_link(target)
        values.before_change(path, new, location)
        if overwrite:
            _put(new, location, partial(check_free, values, over_value=True))
        else:
            rename_new(new, location)


def check_free(values: FileValues, location: Location, *, over_value: bool) -> None:
    """Raise `PathExistsError` if something is at a location, unless a value or a link may be."""
    with suppress(FileNotFoundError):
        status = location.status()
        if not over_value:
            raise PathExistsError("the path exists already")
        check_no_device(status)
        if values.has_directory(location):
            raise PathExistsError("the path is a directory")


def delete(values: FileValues, location: Location, path: P) -> None:
    """Delete a value, a link or an empty directory."""

    def attempt() -> None:
        if not location.is_directory():
            values.before_change(path, location)
            location.remove_file()
            return
        if values.has_value(location):
            values.before_change(path, location)
            if _take_away(values, location, values.has_value):
                return
        values.remove_directory(location, path)

    _while_its_kind_changes(attempt)


def delete_all(values: FileValues, location: Location, path: P) -> None:
    """Delete a value, a link or a directory with all that is in it."""

    def attempt() -> None:
        if location.is_directory():
            _take_away(values, location, Location.exists)
        else:
            location.remove_file()

    values.before_change(path, location)
    _while_its_kind_changes(attempt)


def _while_its_kind_changes(attempt: Callable[[], None]) -> None:
    """Try again while a file and an array replace each other."""
    for _ in range(MOST_ATTEMPTS - 1):
        with suppress(IsADirectoryError, NotADirectoryError):
            return attempt()
    return attempt()


def _take_away(
    values: FileValues, location: Location, is_meant: Callable[[Location], bool]
) -> bool:
    """Rename a directory out of sight and delete it; return False if it is not what is meant."""
    with temporary(location, hidden=values.has_directories) as aside:
        try:
            location.rename(aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            delete_tree(location)  # of a layer below, as containers have, that cannot move
            return True
        if not is_meant(aside):
            rename_new(aside, location)
            return False
        try:
            delete_tree(aside)
        except BaseException:
            with suppress(OSError):
                rename_new(aside, location)
            raise
        return True
