"""The writing half of backends on a local file system: saves, links, copies, moves, deletes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from polystore.atomic import (
    PREFIX,
    is_temporary,
    keep_mode,
    remove,
    sweep,
    sweep_now,
    sync_directory,
    sync_tree,
    temporary_name,
)
from polystore.attempts import MOST_ATTEMPTS, again_while_missing
from polystore.base import StorageBackend
from polystore.checks import path_exists
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
from polystore.local_source import LocalSource
from polystore.os_errors import missing_below_files
from polystore.paths import MOST_LINKS, P, as_text, check_distinct, display
from polystore.renames import publish_file, put, rename_new, replace_only
from polystore.trees import copy_tree, delete_tree

__all__ = ["LocalBackend"]


class LocalBackend(LocalSource, StorageBackend):
    """A backend whose values lie on a local file system.

    Parameters
    ----------
    root : str or os.PathLike, optional
        As of `LocalSource`.
    """

    # What subclasses may do otherwise

    def _check_name(self, path: P) -> None:
        """Refuse names that the backend needs for itself."""

    def _check_own_names(self, path: P) -> None:
        """Refuse to make what would be hidden, and swept one day."""
        text = as_text(path)
        if PREFIX in text and any(is_temporary(name) for name in text.split("/")):
            raise InvalidPathError(f"names that begin with {PREFIX} are those of temporaries")

    def _make_directory(self, place: str) -> None:
        os.mkdir(place)

    def _remove_directory(self, place: str) -> None:
        """Remove a directory in which listings show nothing."""
        try:
            os.rmdir(place)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            sweep_now(place)  # what dead processes left may be all there is
            os.rmdir(place)

    @contextmanager
    def _temporary(self, place: str) -> Iterator[str]:
        """Give a name that listings hide, for what is to take a place or to go from it."""
        temporary = temporary_name(place)
        try:
            yield temporary
        except BaseException:
            remove(temporary)
            raise

    # Writing

    def _check_batch(self, paths: list[str], **options: Any) -> None:
        super()._check_batch(paths, **options)
        places = self._places.identities(paths)
        check_distinct(places, paths, backend=self._backend_type)
        parents, taken = {os.path.dirname(place) for place in places}, set(places)
        while parents:
            for parent in parents & taken:
                raise self._error(
                    PathNotDirectoryError,
                    "another path of the batch lies in this one",
                    paths[places.index(parent)],
                )
            parents = {os.path.dirname(parent) for parent in parents if len(parent) > 1}

    def _check_save(
        self, path: str, *, overwrite: bool = False, parents: bool = False, **_options: Any
    ) -> None:
        with self._os_errors(path):
            self._check_own_names(path)
            try:
                with self._places.slot(path) as place:
                    if os.path.lexists(place):
                        self._check_replaced(place, path, overwrite=overwrite)
                        return
                    parent = os.path.dirname(place) or "."
                    if self._is_directory(parent):
                        return
                    os.stat(parent)
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
        return bool(ancestor) and self._asked(ancestor, self._is_no_directory)

    def _is_no_directory(self, place: str) -> bool:
        # Not the contrary of `_is_directory`: what is gone is no file.
        return not stat.S_ISDIR(os.stat(place).st_mode) or self._is_value(place)

    def _check_replaced(self, place: str, path: P, *, overwrite: bool) -> None:
        if self._is_directory(place):
            kind = PathIsDirectoryError if overwrite else PathExistsError
            raise self._error(kind, "the path is a directory", path)
        if not overwrite:
            raise path_exists(display(path), self._backend_type)

    def _replace(
        self,
        path: P,
        write: Callable[[str], None],
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
    ) -> Iterator[str]:
        """Give the name of a temporary that takes the place of `path` when the block ends well.

        It takes that of a `known` file alone, if one is given.
        """
        text = as_text(path, backend=self._backend_type)
        made: list[str] = []

        def make(directory: str) -> None:
            self._make_directory(directory)
            made.append(directory)
            if durable:
                sync_tree(directory)
                sync_directory(os.path.dirname(directory) or ".")

        with self._os_errors(path), self._unmaking(text, made):
            self._check_own_names(text)
            try:
                with self._places.slot(path, make=make if parents else None) as place:
                    if os.path.lexists(place):
                        self._check_replaced(place, path, overwrite=overwrite)
                    directory = os.path.dirname(place) or "."
                    sweep(directory, f"{self._top}:{os.path.dirname(text)}")
                    with self._temporary(place) as temporary:
                        yield temporary
                        if overwrite:
                            keep_mode(place, temporary)
                        if known is None:
                            self._publish(temporary, place, overwrite=overwrite)
                        else:
                            replace_only(known, temporary, place)
                    if durable:
                        sync_directory(directory)
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
                    if not any(map(is_temporary, os.listdir(place))):
                        self._remove_directory(place)
            raise

    def _publish(self, temporary: str, target: str, *, overwrite: bool) -> None:
        publish_file(temporary, target, overwrite=overwrite)

    def ensure_directory(self, path: P) -> str:
        text = self._text(path)
        with self._located(path):
            self._check_name(path)
            self._check_own_names(path)
        if self._is_blocked(text):
            raise self._error(PathExistsError, "the path, or a part of it, is a file", path)
        with self._os_errors(path):
            again_while_missing(partial(self._ensure_directory, path))
        return text

    def _ensure_directory(self, path: P) -> None:
        with self._places.slot(path, make=self._make_directory) as place:
            with suppress(FileExistsError):
                self._make_directory(place)
                return
            if self._is_directory(place):
                return
            kind = stat.S_IFMT(os.lstat(place).st_mode)  # or it went again
            came_again = kind == stat.S_IFDIR and not self._is_value(place)
            if not came_again:
                raise PathExistsError("the path is a file or a link that leads nowhere")

    def delete(self, path: P) -> None:
        with self._present(path) as place:
            _while_its_kind_changes(self._delete, place)

    def _delete(self, place: str) -> None:
        if not _is_real_directory(place):
            os.unlink(place)
        elif not (self._is_value(place) and self._take_away(place, self._is_value)):
            self._remove_directory(place)

    def delete_all(self, path: P) -> None:
        with self._present(path) as place:
            _while_its_kind_changes(self._delete_all, place)

    def _delete_all(self, place: str) -> None:
        if _is_real_directory(place):
            self._take_away(place)
        else:
            os.unlink(place)

    def _take_away(self, directory: str, is_meant: Callable[[str], bool] = os.path.lexists) -> bool:
        """Delete a directory with all that is in it: nobody sees a part of it.

        False if it is not what is meant, since another took its place.
        """
        with self._temporary(directory) as aside:
            try:
                os.rename(directory, aside)
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
                os.lstat(origin)
                remove(temporary)
                return False
            rename_new(temporary, place)
            return True

    def move(self, source: P, destination: P) -> None:
        try:
            with self._transfer(source, destination) as (origin, place):
                rename_new(origin, place)
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
            if _passes(target, self._places.real(link)):
                raise StorageResolutionError("a link cannot lead to itself")
            with self._temporary(place) as temporary:
                os.symlink(target, temporary)
                if overwrite:
                    replaced = put(temporary, place, partial(_check_free, over_link=True))
                    if replaced:
                        os.unlink(replaced)
                else:
                    rename_new(temporary, place)

    @contextmanager
    def _present(self, path: P) -> Iterator[str]:
        """Give the place of an existing path itself, a link not followed; never the root."""
        with self._os_errors(path):
            if self._top and self._places.text(path) == "/":
                raise InvalidPathError("the root always exists and stays")
            with missing_below_files(), self._places.itself(path) as place:
                os.lstat(place)
                yield place

    @contextmanager
    def _free_place(self, path: P, *, over_link: bool = False) -> Iterator[str]:
        with self._located(path):
            self._check_name(path)
            self._check_own_names(path)
            # Not every value is a file through which the system finds no way.
            if self._is_blocked(os.path.dirname(self._places.text(path))):
                raise PathNotDirectoryError("a part of the path is a file")
        with self._os_errors(path), self._places.itself(path) as place:
            with suppress(FileNotFoundError, NotADirectoryError):
                _check_free(place, over_link=over_link)
            parent = os.path.dirname(place) or "."
            if not self._is_directory(parent):
                os.stat(parent)
                raise PathNotDirectoryError("the parent is a file")
            yield place

    @contextmanager
    def _transfer(self, source: P, destination: P) -> Iterator[tuple[str, str]]:
        with self._present(source) as origin, self._free_place(destination) as place:
            inside = os.path.realpath(os.path.dirname(place) or ".") + os.sep
            if not os.path.islink(origin) and inside.startswith(os.path.realpath(origin) + os.sep):
                raise InvalidPathError(f"a directory cannot go into itself ({display(source)})")
            yield origin, place


def _while_its_kind_changes(delete: Callable[[str], None], place: str) -> None:
    """Delete what is at a place, however often a file there gives way to an array, or back."""
    for _ in range(MOST_ATTEMPTS - 1):
        with suppress(IsADirectoryError, NotADirectoryError):
            return delete(place)
    return delete(place)


def _is_real_directory(place: str) -> bool:
    return os.path.isdir(place) and not os.path.islink(place)


def _check_free(place: str, *, over_link: bool) -> None:
    is_link = stat.S_ISLNK(os.lstat(place).st_mode)
    if not (is_link and over_link):
        raise PathExistsError("the path exists already")


def _passes(path: str, link: str) -> bool:
    """Tell whether resolving `path` goes through `link`."""
    wanted = _itself(link)
    ahead, links = [Path(path)], 0
    while ahead:
        whole = ahead.pop()
        for part in (*reversed(whole.parents), whole):
            if _itself(str(part)) == wanted:
                return True
            if part.is_symlink() and links < MOST_LINKS:
                links += 1
                rest = whole.relative_to(part)
                ahead.append(part.parent / os.readlink(part) / rest)
                break
    return False


def _itself(path: str) -> str:
    """Return the one name of a path, a last link not followed."""
    head, tail = os.path.split(path)
    return str(Path(os.path.realpath(head or ".")) / tail)
