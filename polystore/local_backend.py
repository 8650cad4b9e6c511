"""What backends on a local file system share: listings, links, copies, moves, deletes."""

from __future__ import annotations

import errno
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from polystore.atomic import (
    is_temporary,
    keep_mode,
    publish_file,
    remove,
    rename_new,
    sweep,
    sync_directory,
    temporary_name,
)
from polystore.base import StorageBackend, check_distinct, path_exists
from polystore.copying import copy_tree
from polystore.exceptions import (
    DirectoryNotEmptyError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    StorageWriteError,
)
from polystore.paths import NameFilter, P, as_text, file_order
from polystore.places import Places, RootedPlaces, SystemPlaces

__all__ = ["LocalBackend"]

_MOST_LINKS = 40

_MEANING: dict[int, tuple[type[StorageError], str]] = {
    errno.ENOENT: (PathNotFoundError, "no such file or directory"),
    errno.EEXIST: (PathExistsError, "the path exists already"),
    errno.ENOTEMPTY: (DirectoryNotEmptyError, "the directory is not empty"),
    errno.EISDIR: (PathIsDirectoryError, "the path is a directory"),
    errno.ENOTDIR: (PathNotDirectoryError, "a part of the path is a file"),
    errno.ELOOP: (StorageResolutionError, "links lead in a circle"),
    errno.ENAMETOOLONG: (InvalidPathError, "the path is too long for the file system"),
}
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class LocalBackend(StorageBackend):
    """A backend whose values lie on a local file system.

    Parameters
    ----------
    root : str or os.PathLike, optional
        Without it, paths are those of the operating system. With it, paths form one tree rooted
        at ``/``, as in the memory backend, that lies in this directory, and nothing outside it
        can be reached, not by ``..``, an absolute path or a symbolic link.
    """

    def __init__(self, root: P | None = None) -> None:
        self._places: Places = SystemPlaces()
        self._top = ""
        if root is not None:
            top = os.path.realpath(as_text(root, backend=self._backend_type))
            with self._os_errors(top):
                Path(top).mkdir(parents=True, exist_ok=True)
            self._places, self._top = RootedPlaces(top), top

    @classmethod
    def portable_path(cls, path: P) -> str:
        text = as_text(path, backend=cls._backend_type)
        # Not normalised: a ".." after a link does not mean what it seems to.
        return str(Path.cwd() / text) if not Path(text).is_absolute() else text

    # What a value is

    @abstractmethod
    def _is_value(self, place: str) -> bool:
        """Tell whether there is a value at a place."""

    def _describe(self, place: str, path: P) -> dict[str, Any]:
        """Return what `stat` says of a value beside its time."""
        return {"size": os.stat(place).st_size}

    def _is_hidden(self, name: str) -> bool:
        """Tell whether listings leave a name out."""
        return is_temporary(name)

    def _check_name(self, path: P) -> None:
        """Refuse names that the backend needs for itself."""

    def _make_directory(self, place: str) -> None:
        os.mkdir(place)

    def _remove_directory(self, place: str) -> None:
        sweep(place)
        os.rmdir(place)

    # Asking

    def exists(self, path: P) -> bool:
        return self._asked(path, os.path.exists)

    def is_file(self, path: P) -> bool:
        return self._asked(path, self._is_value)

    def is_dir(self, path: P) -> bool:
        return self._asked(path, self._is_directory)

    def is_symlink(self, path: P) -> bool:
        with self._located(path), _nothing_there(), self._places.itself(path) as place:
            return os.path.islink(place)
        return False

    def _asked(self, path: P, question: Callable[[str], bool]) -> bool:
        with self._located(path), _nothing_there(), self._places.existing(path) as place:
            return question(place)
        return False

    def _is_directory(self, place: str) -> bool:
        return os.path.isdir(place) and not self._is_value(place)

    def stat(self, path: P) -> dict[str, Any]:
        facts: dict[str, Any] = {"type": "missing", "path": self._text(path), "exists": False}
        if self.is_symlink(path):
            facts |= {"type": "symlink", "target": self._target(path)}
        with self._located(path), _nothing_there(), self._places.existing(path) as place:
            facts["modified"] = os.stat(place).st_mtime
            facts["exists"] = True
            value = self._is_value(place)
            if facts["type"] == "missing":
                facts["type"] = "file" if value else "directory"
            if value:
                facts |= self._describe(place, path)
        return facts

    def _target(self, path: P) -> str:
        with self._os_errors(path), self._places.itself(path) as place:
            target = os.readlink(place)
        if not os.path.isabs(target):
            target = os.path.join(os.path.dirname(self._places.real(path)), target)
        return self._places.shown(target)

    def list_dir(self, path: P) -> list[str]:
        with self._directory(path) as place:
            return sorted(name for name in os.listdir(place) if not self._is_hidden(name))

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        selected = NameFilter(pattern, extensions)
        found: list[str] = []
        waiting = [self._text(path).rstrip("/")]
        while waiting:
            prefix = waiting.pop()
            with self._directory(prefix or "/") as place, os.scandir(place) as entries:
                for entry in entries:
                    child = f"{prefix}/{entry.name}"
                    if self._is_hidden(entry.name):
                        continue
                    if entry.is_symlink():
                        # Where a link leads is asked as any path is: it could lead out of a root.
                        if selected(entry.name) and self._leads_to_file(child):
                            found.append(child)
                    elif entry.is_dir() and not self._is_value(entry.path):
                        if recursive:
                            waiting.append(child)
                    elif selected(entry.name) and self._is_value(entry.path):
                        found.append(child)
        return sorted(found, key=file_order)

    def _leads_to_file(self, link: str) -> bool:
        try:
            return self.is_file(link)
        except InvalidPathError:
            return False

    @contextmanager
    def _reading(self, path: P) -> Iterator[str]:
        """Give the place of what is read; below a file there is nothing."""
        with self._os_errors(path), _missing_below_files(), self._places.existing(path) as place:
            yield place

    @contextmanager
    def _directory(self, path: P) -> Iterator[str]:
        with self._reading(path) as place:
            if not self._is_directory(place):
                os.stat(place)
                raise PathNotDirectoryError("the path is a file")
            yield place

    @contextmanager
    def _existing_value(self, path: P) -> Iterator[str]:
        """Give the place of the value at `path`."""
        with self._reading(path) as place:
            seen = None
            while not self._is_value(place):
                status = os.stat(place)
                # Looked at again, since a save may have put a value there in between.
                if seen is not None and os.path.samestat(seen, status):
                    raise PathIsDirectoryError("the path is a directory")
                seen = status
            yield place

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
        try:
            with self._located(path), self._places.slot(path) as place:
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
        ancestor = self._existing_ancestor(path)
        if ancestor and not self.is_dir(ancestor):
            raise self._error(PathNotDirectoryError, "a part of the path is a file", path)
        if not parents:
            raise self._error(
                PathNotFoundError, "the parent directory is missing; parents=True makes it", path
            )

    def _existing_ancestor(self, path: P) -> str:
        """Return the path, or the nearest above it, that leads to anything; "" for none."""
        ancestor = self._text(path).rstrip("/")
        while ancestor and not self.exists(ancestor):
            ancestor = os.path.dirname(ancestor).rstrip("/")
        return ancestor

    def _check_replaced(self, place: str, path: P, *, overwrite: bool) -> None:
        if self._is_directory(place):
            kind = PathIsDirectoryError if overwrite else PathExistsError
            raise self._error(kind, "the path is a directory", path)
        if not overwrite:
            raise path_exists(str(path), self._backend_type)

    @contextmanager
    def _replacing(
        self, path: P, *, overwrite: bool, parents: bool, durable: bool
    ) -> Iterator[str]:
        """Give the name of a temporary that takes the place of `path` when the block ends well."""
        text = as_text(path, backend=self._backend_type)
        make = self._make_directory if parents else None
        with self._os_errors(path):
            try:
                with self._places.slot(path, make=make) as place:
                    if os.path.lexists(place):
                        self._check_replaced(place, path, overwrite=overwrite)
                    directory = os.path.dirname(place) or "."
                    sweep(directory, f"{self._top}:{os.path.dirname(text)}")
                    temporary = temporary_name(place)
                    try:
                        yield temporary
                        if overwrite:
                            keep_mode(place, temporary)
                        self._publish(temporary, place, overwrite=overwrite)
                    except BaseException:
                        remove(temporary)
                        raise
                    if durable:
                        sync_directory(directory)
            except (FileNotFoundError, NotADirectoryError):
                # Asked only now, since most saves do not fail: what exactly is missing?
                self._check_save(text, overwrite=overwrite, parents=parents)
                raise

    def _publish(self, temporary: str, target: str, *, overwrite: bool) -> None:
        publish_file(temporary, target, overwrite=overwrite)

    def ensure_directory(self, path: P) -> str:
        text = self._text(path)
        with self._located(path):
            self._check_name(path)
        ancestor = self._existing_ancestor(path)
        if ancestor and not self.is_dir(ancestor):
            raise self._error(PathExistsError, "the path, or a part of it, is a file", path)
        with self._os_errors(path), self._places.slot(path, make=self._make_directory) as place:
            with suppress(FileExistsError):
                self._make_directory(place)
                return text
            if not os.path.isdir(place):
                raise PathExistsError("the path is a file or a link that leads nowhere")
        return text

    def delete(self, path: P) -> None:
        with self._present(path) as place:
            if os.path.islink(place) or not os.path.isdir(place):
                os.unlink(place)
            elif self._is_value(place):
                # At once, so that one deleter wins and no reader sees a part of it.
                aside = temporary_name(place)
                os.rename(place, aside)
                remove(aside)
            else:
                self._remove_directory(place)

    def delete_all(self, path: P) -> None:
        with self._present(path) as place:
            if os.path.isdir(place) and not os.path.islink(place):
                shutil.rmtree(place)
            else:
                os.unlink(place)

    def copy(self, source: P, destination: P) -> None:
        with self._transfer(source, destination) as (origin, place):
            temporary = temporary_name(place)
            try:
                copy_tree(origin, temporary, skip=is_temporary)
                rename_new(temporary, place)
            except BaseException:
                remove(temporary)
                raise

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
            temporary = temporary_name(place)
            os.symlink(target, temporary)
            try:
                publish_file(temporary, place, overwrite=overwrite)
            except BaseException:
                remove(temporary)
                raise

    # Places

    def _text(self, path: P) -> str:
        with self._located(path):
            return self._places.text(path)

    @contextmanager
    def _present(self, path: P) -> Iterator[str]:
        """Give the place of an existing path itself, a link not followed; never the root."""
        with self._os_errors(path):
            if self._top and self._places.text(path) == "/":
                raise InvalidPathError("the root always exists and stays")
            with _missing_below_files(), self._places.itself(path) as place:
                os.lstat(place)
                yield place

    @contextmanager
    def _free_place(self, path: P, *, over_link: bool = False) -> Iterator[str]:
        with self._os_errors(path), self._places.itself(path) as place:
            self._check_name(path)
            if os.path.lexists(place) and not (over_link and os.path.islink(place)):
                raise PathExistsError("the path exists already")
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
                raise InvalidPathError(f"a directory cannot go into itself ({source!s})")
            yield origin, place

    # Errors

    @contextmanager
    def _located(self, path: P) -> Iterator[None]:
        """Add path and backend to errors that were raised without."""
        try:
            yield
        except StorageError as error:
            error.located(path=str(path), backend=self._backend_type)
            raise

    @contextmanager
    def _os_errors(self, path: P) -> Iterator[None]:
        """Let errors of the operating system out as ours, with path, backend and cause."""
        try:
            yield
        except StorageError as error:
            error.located(path=str(path), backend=self._backend_type)
            raise
        except OSError as error:
            kind, meaning = _MEANING.get(
                error.errno or 0,
                (StorageWriteError, f"the file system refused: {error.strerror or error}"),
            )
            raise self._error(kind, meaning, path) from error

    def _error(self, kind: type[StorageError], message: str, path: P) -> StorageError:
        return kind(message, path=str(path), backend=self._backend_type)


@contextmanager
def _missing_below_files() -> Iterator[None]:
    """Let a path that leads through a file be a missing one."""
    try:
        yield
    except NotADirectoryError as error:
        if isinstance(error, StorageError):
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error


@contextmanager
def _nothing_there() -> Iterator[None]:
    """End the block where a path leads to nothing."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOTHING_THERE:
            raise


def _passes(path: str, link: str) -> bool:
    """Tell whether resolving `path` goes through `link`."""
    wanted = _itself(link)
    ahead, links = [Path(path)], 0
    while ahead:
        whole = ahead.pop()
        for part in (*reversed(whole.parents), whole):
            if _itself(str(part)) == wanted:
                return True
            if part.is_symlink() and links < _MOST_LINKS:
                links += 1
                rest = whole.relative_to(part)
                ahead.append(part.parent / os.readlink(part) / rest)
                break
    return False


def _itself(path: str) -> str:
    """Return the one name of a path, a last link not followed."""
    head, tail = os.path.split(path)
    return str(Path(os.path.realpath(head or ".")) / tail)
