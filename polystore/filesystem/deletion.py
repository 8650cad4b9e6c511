"""Deletions at a place of a local tree: nobody sees a part of what is deleted."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress

from polystore.filesystem.dir_fd import Place
from polystore.filesystem.renames import rename_new
from polystore.filesystem.retry import MOST_ATTEMPTS
from polystore.filesystem.temporaries import temporary
from polystore.filesystem.tree_operations import delete_tree
from polystore.filesystem.values import FileValues
from polystore.paths import P

__all__ = ["delete", "delete_all"]


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
