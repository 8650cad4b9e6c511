"""The writing half of backends on a local file system: saves, links, copies, moves, deletes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from polystore.arguments import check_apart, path_exists
from polystore.base import StorageBackend
from polystore.error_translation import missing_below_files
from polystore.exceptions import (
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    StorageWriteError,
)
from polystore.filesystem.dir_fd import Held, Place, check_no_device
from polystore.filesystem.reader import LocalSource
from polystore.filesystem.renames import publish_file, put, rename_new, replace_only
from polystore.filesystem.retry import MOST_ATTEMPTS, again_while_missing
from polystore.filesystem.temporaries import (
    PREFIX,
    is_temporary,
    keep_mode,
    remove,
    sweep,
    sweep_now,
    temporary_name,
)
from polystore.filesystem.tree_operations import copy_tree, delete_tree, sync_tree
from polystore.paths import P, as_text, display

__all__ = ["LocalBackend"]


class LocalBackend(LocalSource, StorageBackend):
    """A backend whose values lie on a local file system.

    Parameters
    ----------
    root : str or os.PathLike, optional
        As of `LocalSource`.
    """

    # What subclasses may do otherwise

    def _check_name(self, name: str) -> None:
        """Refuse a name that the backend needs for itself."""
        if is_temporary(name):
            raise InvalidPathError(f"names that begin with {PREFIX} are those of temporaries")

    def _check_own_names(self, path: P) -> None:
        """Refuse to make what would be hidden, and swept one day; where no place is looked at."""
        text = self._places.text(path)
        self._check_name(os.path.basename(text))
        if PREFIX in text:
            for name in text.split("/"):
                LocalBackend._check_name(self, name)

    def _checked(self, place: Place) -> Place:
        """Return a place at which something is to be made, replaced or removed.

        However its path was spelt, and whatever links led there: it has one name.
        """
        self._check_name(place.name)
        return place

    def _make_directory(self, place: Place) -> None:
        place.make_directory()

    def _remove_directory(self, place: Place) -> None:
        """Remove a directory in which listings show nothing."""
        try:
            place.remove_directory()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            with place.hold() as held:
                sweep_now(held)  # what dead processes left may be all there is
            place.remove_directory()

    @contextmanager
    def _temporary(self, place: Place) -> Iterator[Place]:
        """Give a name that listings hide, for what is to take a place or to go from it."""
        temporary = place.beside(temporary_name())
        try:
            yield temporary
        except BaseException:
            remove(temporary)
            raise

    # Writing

    def _check_batch(self, paths: list[str], **options: Any) -> None:
        super()._check_batch(paths, **options)
        places = self._places.identities(paths)
        check_apart(places, os.path.dirname, paths, backend=self._backend_type)

    def _check_save(
        self, path: str, *, overwrite: bool = False, parents: bool = False, **_options: Any
    ) -> None:
        with self._os_errors(path):
            self._check_own_names(path)
            try:
                with self._places.slot(path) as place:
                    if self._checked(place).exists():
                        self._check_replaced(place, path, overwrite=overwrite)
                        return
                    if self._is_directory(place.directory):
                        return
            except (FileNotFoundError, NotADirectoryError) as error:
                if isinstance(error, StorageError):
                    raise
            if self._is_blocked(os.path.dirname(self._places.text(path))):
                raise PathNotDirectoryError("a part of the path is a file")
            if not parents:
                raise PathNotFoundError("the parent directory is missing; parents=True makes it")

    def _is_blocked(self, path: str) -> bool:
        """Tell whether the path, or the nearest above it that leads anywhere, is no directory."""
        ancestor = path.rstrip("/")
        while ancestor and not self.exists(ancestor):
            ancestor = os.path.dirname(ancestor).rstrip("/")
        return bool(ancestor) and self._asked(ancestor, self._is_no_directory, False)

    def _is_no_directory(self, held: Held) -> bool:
        return not self._is_directory(held)

    def _check_replaced(self, place: Place, path: P, *, overwrite: bool) -> None:
        try:
            status = place.status()
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode) and self._has_directory(place):
            kind = PathIsDirectoryError if overwrite else PathExistsError
            raise self._error(kind, "the path is a directory", path)
        if not overwrite:
            raise path_exists(display(path), self._backend_type)
        check_no_device(status)

    def _replace(
        self,
        path: P,
        write: Callable[[Place], None],
        *,
        overwrite: bool,
        parents: bool,
        durable: bool,
    ) -> None:
        """Put what `write` makes of the name of a temporary in the place of `path`."""

        def attempt() -> None:
            with self._replacing(
                path, overwrite=overwrite, parents=parents, durable=durable
            ) as temporary:
                write(temporary)

        if parents:
            again_while_missing(attempt)
        else:
            attempt()

    @contextmanager
    def _replacing(
        self,
        path: P,
        *,
        overwrite: bool,
        parents: bool,
        durable: bool,
        known: os.stat_result | None = None,
    ) -> Iterator[Place]:
        """Give the name of a temporary that takes the place of `path` when the block ends well.

        It takes that of a `known` file alone, if one is given.
        """
        text = as_text(path, backend=self._backend_type)
        made: list[str] = []

        def make(directory: Place) -> None:
            self._make_directory(self._checked(directory))
            made.append(directory.name)
            if durable:
                with directory.hold() as held:
                    sync_tree(held)
                directory.directory.sync()

        with self._os_errors(path), self._unmaking(text, made):
            self._check_own_names(text)
            try:
                with self._places.slot(path, make=make if parents else None) as place:
                    self._check_replaced(self._checked(place), path, overwrite=overwrite)
                    sweep(place.directory, f"{self._top}:{os.path.dirname(text)}")
                    with self._temporary(place) as temporary:
                        yield temporary
                        if overwrite:
                            keep_mode(place, temporary)
                        if known is None:
                            self._publish(temporary, place, overwrite=overwrite)
                        else:
                            replace_only(known, temporary, place)
                    if durable:
                        place.directory.sync()
            except (FileNotFoundError, NotADirectoryError):
                # Asked only now, since most saves do not fail: what exactly is missing?
                self._check_save(text, overwrite=overwrite, parents=parents)
                raise

    @contextmanager
    def _unmaking(self, path: str, made: list[str]) -> Iterator[None]:
        """Remove the parents that a save has made, if it fails and nobody uses them meanwhile."""
        try:
            yield
        except BaseException:
            # By name, since the places they were made at may be none any more.
            for _ in made:
                path = os.path.dirname(path.rstrip("/"))
                with suppress(StorageError), self._present(path) as place:
                    with place.hold() as held:
                        is_used = any(map(is_temporary, held.names()))
                    if not is_used:
                        self._remove_directory(place)
            raise

    def _publish(self, temporary: Place, target: Place, *, overwrite: bool) -> None:
        publish_file(temporary, target, overwrite=overwrite)

    def ensure_directory(self, path: P) -> str:
        text = self._text(path)
        with self._located(path):
            self._check_own_names(path)
        if self._is_blocked(text):
            raise self._error(PathExistsError, "the path, or a part of it, is a file", path)
        with self._os_errors(path):
            again_while_missing(partial(self._ensure_directory, path))
        return text

    def _ensure_directory(self, path: P) -> None:
        with self._places.slot(path, make=self._make_checked) as place:
            with suppress(FileExistsError):
                self._make_checked(place)
                return
            if self._has_directory(place):
                return
            # What went again raises that it is missing, and is tried again.
            if not stat.S_ISDIR(place.status().st_mode) or self._has_value(place):
                raise PathExistsError("the path is a file or a link that leads nowhere")

    def _make_checked(self, place: Place) -> None:
        self._make_directory(self._checked(place))

    def delete(self, path: P) -> None:
        with self._removable(path) as place:
            _while_its_kind_changes(self._delete, place)

    def _delete(self, place: Place) -> None:
        if not place.is_directory():
            place.remove_file()
        elif not (self._has_value(place) and self._take_away(place, self._has_value)):
            self._remove_directory(place)

    def delete_all(self, path: P) -> None:
        with self._removable(path) as place:
            _while_its_kind_changes(self._delete_all, place)

    def _delete_all(self, place: Place) -> None:
        if place.is_directory():
            self._take_away(place)
        else:
            place.remove_file()

    def _take_away(
        self, directory: Place, is_meant: Callable[[Place], bool] = Place.exists
    ) -> bool:
        """Delete a directory with all that is in it: nobody sees a part of it.

        False if it is not what is meant, since another took its place.
        """
        with self._temporary(directory) as aside:
            try:
                directory.rename(aside)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                delete_tree(directory)  # of a layer below, as containers have, that cannot move
                return True
            if not is_meant(aside):
                rename_new(aside, directory)
                return False
            try:
                delete_tree(aside)
            except BaseException:
                with suppress(OSError):
                    rename_new(aside, directory)
                raise
            return True

    def copy(self, source: P, destination: P) -> None:
        for _ in range(MOST_ATTEMPTS):
            if self._copied(source, destination):
                return
        raise self._error(StorageWriteError, "it is changed faster than it can be copied", source)

    def _copied(self, source: P, destination: P) -> bool:
        """Copy; False if a part of the source went meanwhile, or was replaced."""
        with (
            self._transfer(source, destination) as (origin, place),
            self._temporary(place) as temporary,
        ):
            try:
                copy_tree(origin, temporary, skip=is_temporary)
            except FileNotFoundError:
                origin.status()
                remove(temporary)
                return False
            rename_new(temporary, place)
            return True

    def move(self, source: P, destination: P) -> None:
        try:
            with self._transfer(source, destination) as (origin, place):
                rename_new(self._checked(origin), place)
        except StorageWriteError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno != errno.EXDEV:
                raise
            self.copy(source, destination)
            self.delete_all(source)

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        if not self.exists(source):
            raise self._error(PathNotFoundError, "a link needs an existing source", source)
        target = self._places.real(source)
        with self._free_place(link, over_link=overwrite) as place:
            if self._passes(source, place):
                raise StorageResolutionError("a link cannot lead to itself")
            with self._temporary(place) as temporary:
                temporary.make_link(target)
                if overwrite:
                    replaced = put(temporary, place, partial(_check_free, over_link=True))
                    if replaced:
                        replaced.remove_file()
                else:
                    rename_new(temporary, place)

    def _passes(self, path: P, place: Place) -> bool:
        """Return whether the way to a path goes through a place."""
        directory = place.directory.identity()
        return any(
            step.name == place.name and step.directory.identity() == directory
            for step in self._places.steps(path)
        )

    @contextmanager
    def _present(self, path: P) -> Iterator[Place]:
        """Give the place of an existing path itself, a link not followed; never the root."""
        with self._os_errors(path):
            if self._top and self._places.text(path) == "/":
                raise InvalidPathError("the root always exists and stays")
            with missing_below_files(), self._places.itself(path) as place:
                place.status()
                yield place

    @contextmanager
    def _removable(self, path: P) -> Iterator[Place]:
        with self._present(path) as place:
            yield self._checked(place)

    @contextmanager
    def _free_place(self, path: P, *, over_link: bool = False) -> Iterator[Place]:
        with self._located(path):
            self._check_own_names(path)
            # Not every value is a file through which the system finds no way.
            if self._is_blocked(os.path.dirname(self._places.text(path))):
                raise PathNotDirectoryError("a part of the path is a file")
        with self._os_errors(path), self._places.itself(path) as place:
            with suppress(FileNotFoundError):
                _check_free(self._checked(place), over_link=over_link)
            if not self._is_directory(place.directory):
                raise PathNotDirectoryError("the parent is a file")
            yield place

    @contextmanager
    def _transfer(self, source: P, destination: P) -> Iterator[tuple[Place, Place]]:
        with self._present(source) as origin, self._free_place(destination) as place:
            status = origin.status()
            identity = status.st_dev, status.st_ino
            if stat.S_ISDIR(status.st_mode) and place.directory.lies_in(identity):
                raise InvalidPathError(f"a directory cannot go into itself ({display(source)})")
            yield origin, place


def _while_its_kind_changes(delete: Callable[[Place], None], place: Place) -> None:
    """Delete what is at a place, however often a file there gives way to an array, or back."""
    for _ in range(MOST_ATTEMPTS - 1):
        with suppress(IsADirectoryError, NotADirectoryError):
            return delete(place)
    return delete(place)


def _check_free(place: Place, *, over_link: bool) -> None:
    is_link = stat.S_ISLNK(place.status().st_mode)
    if not (is_link and over_link):
        raise PathExistsError("the path exists already")
