"""What backends on a local file system share: roots, listings, links, copies, moves, deletes."""

from __future__ import annotations

import errno
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polystore.atomic import (
    PREFIX,
    is_temporary,
    keep_mode,
    publish_file,
    remove,
    sweep,
    sync_directory,
    temporary_name,
)
from polystore.base import StorageBackend, path_exists
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
from polystore.paths import NameFilter, P, as_text, file_order, join, normalize, split

__all__ = ["LocalBackend"]

_MOST_LINKS = 40

_MEANING: dict[int, tuple[type[StorageError], str]] = {
    errno.ENOENT: (PathNotFoundError, "no such file or directory"),
    errno.EEXIST: (PathExistsError, "the path exists already"),
    errno.ENOTEMPTY: (
        DirectoryNotEmptyError,
        "the directory is not empty",
    ),
    errno.EISDIR: (PathIsDirectoryError, "the path is a directory"),
    errno.ENOTDIR: (PathNotDirectoryError, "a part of the path is a file"),
    errno.ELOOP: (StorageResolutionError, "links lead in a circle"),
    errno.ENAMETOOLONG: (InvalidPathError, "the path is too long for the file system"),
}


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
        self._root: str | None = None
        if root is not None:
            self._root = os.path.realpath(as_text(root, backend=self._backend_type))
            with self._os_errors(self._root):
                Path(self._root).mkdir(parents=True, exist_ok=True)

    @classmethod
    def portable_path(cls, path: P) -> str:
        text = as_text(path, backend=cls._backend_type)
        # Not normalised: a ".." after a link does not mean what it seems to.
        return str(Path.cwd() / text) if not Path(text).is_absolute() else text

    # What a value is

    @abstractmethod
    def _is_value(self, place: str) -> bool:
        """Tell whether there is a value at a path of the operating system."""

    def _describe(self, place: str) -> dict[str, Any]:
        """Return what `stat` says of a value beside its time."""
        return {"size": Path(place).stat().st_size}

    # Asking

    def exists(self, path: P) -> bool:
        return self._asked(path, os.path.exists)

    def is_file(self, path: P) -> bool:
        return self._asked(path, self._is_value)

    def is_dir(self, path: P) -> bool:
        return self._asked(path, self._is_directory)

    def is_symlink(self, path: P) -> bool:
        return Path(self._place(path, follow=False)).is_symlink()

    def _asked(self, path: P, question: Any) -> bool:
        place = self._place(path)
        return bool(question(place))

    def _is_directory(self, place: str) -> bool:
        return Path(place).is_dir() and not self._is_value(place)

    def stat(self, path: P) -> dict[str, Any]:
        link = self._place(path, follow=False)
        text = normalize(path) if self._root is not None else as_text(path)
        facts: dict[str, Any] = {"type": "missing", "path": text, "exists": self.exists(path)}
        if Path(link).is_symlink():
            facts |= {"type": "symlink", "target": self._shown(self._target(link))}
        elif facts["exists"]:
            facts["type"] = "file" if self.is_file(path) else "directory"
        if facts["exists"]:
            place = self._place(path)
            facts["modified"] = Path(place).stat().st_mtime
            if self._is_value(place):
                facts |= self._describe(place)
        return facts

    def list_dir(self, path: P) -> list[str]:
        place = self._directory(path)
        with self._os_errors(path):
            return sorted(name for name in os.listdir(place) if not is_temporary(name))

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        selected = NameFilter(pattern, extensions)
        prefix = normalize(path).rstrip("/") if self._root is not None else as_text(path)
        found: list[str] = []
        waiting = [(prefix, self._directory(path))]
        while waiting:
            shown, place = waiting.pop()
            with self._os_errors(shown), os.scandir(place) as entries:
                for entry in entries:
                    if is_temporary(entry.name):
                        continue
                    child = f"{shown}/{entry.name}" if shown != "/" else f"/{entry.name}"
                    if entry.is_dir() and not self._is_value(entry.path):
                        if recursive and not entry.is_symlink():
                            waiting.append((child, entry.path))
                    elif selected(entry.name) and self._is_value(entry.path):
                        found.append(child)
        return sorted(found, key=file_order)

    def _directory(self, path: P) -> str:
        place = self._place(path)
        if not self._is_directory(place):
            kind = PathNotDirectoryError if os.path.exists(place) else PathNotFoundError
            raise self._error(kind, "no such directory", path)
        return place

    def _existing_value(self, path: P) -> str:
        """Return where the value at `path` is."""
        place = self._place(path)
        if not self._is_value(place):
            if Path(place).is_dir():
                raise self._error(PathIsDirectoryError, "the path is a directory", path)
            with self._os_errors(path):
                os.stat(place)
            raise self._error(PathNotFoundError, "no such file", path)
        return place

    # Writing

    def _check_save(
        self, path: str, *, overwrite: bool = False, parents: bool = False, **_options: Any
    ) -> None:
        place = self._place(path)
        if self._is_directory(place):
            kind = PathIsDirectoryError if overwrite else PathExistsError
            raise self._error(kind, "the path is a directory", path)
        if not overwrite and os.path.exists(place):
            raise path_exists(path, self._backend_type)
        parent = Path(os.path.realpath(place)).parent
        if self._is_directory(str(parent)):
            return
        ancestor = next((p for p in (parent, *parent.parents) if os.path.lexists(p)), parent)
        if not self._is_directory(str(ancestor)):
            raise self._error(PathNotDirectoryError, "a part of the path is a file", path)
        if not parents:
            raise self._error(
                PathNotFoundError, "the parent directory is missing; parents=True makes it", path
            )

    @contextmanager
    def _replacing(
        self, path: P, *, overwrite: bool, parents: bool, durable: bool
    ) -> Iterator[str]:
        """Give the name of a temporary that takes the place of `path` when the block ends well."""
        text = as_text(path, backend=self._backend_type)
        self._check_save(text, overwrite=overwrite, parents=parents)
        with self._os_errors(path):
            target = os.path.realpath(self._place(path))
            directory = str(Path(target).parent)
            if parents:
                Path(directory).mkdir(parents=True, exist_ok=True)
            sweep(directory)
            temporary = temporary_name(target)
            try:
                yield temporary
                if overwrite:
                    keep_mode(target, temporary)
                self._publish(temporary, target, overwrite=overwrite)
            finally:
                remove(temporary)
            if durable:
                sync_directory(directory)

    def _publish(self, temporary: str, target: str, *, overwrite: bool) -> None:
        publish_file(temporary, target, overwrite=overwrite)

    def ensure_directory(self, path: P) -> str:
        place = self._place(path)
        text = normalize(path) if self._root is not None else as_text(path)
        ancestors = (Path(place), *Path(place).parents)
        ancestor = next((p for p in ancestors if os.path.lexists(p)), Path(place))
        if ancestor.exists() and not self._is_directory(str(ancestor)):
            raise self._error(PathExistsError, "the path, or a part of it, is a file", path)
        with self._os_errors(path):
            Path(place).mkdir(parents=True, exist_ok=True)
        return text

    def delete(self, path: P) -> None:
        place = self._present(path)
        with self._os_errors(path):
            if Path(place).is_symlink() or self._is_value(place):
                remove(place)
            else:
                sweep(place)
                Path(place).rmdir()

    def delete_all(self, path: P) -> None:
        place = self._present(path)
        with self._os_errors(path):
            if Path(place).is_dir() and not Path(place).is_symlink():
                shutil.rmtree(place)
            else:
                Path(place).unlink()

    def copy(self, source: P, destination: P) -> None:
        origin, place = self._transfer(source, destination)
        temporary = temporary_name(place)
        with self._os_errors(destination):
            try:
                if Path(origin).is_symlink():
                    os.symlink(self._target(origin), temporary)
                elif Path(origin).is_dir():
                    ignore = shutil.ignore_patterns(f"{PREFIX}*")
                    shutil.copytree(origin, temporary, symlinks=True, ignore=ignore)
                else:
                    shutil.copy2(origin, temporary)
                self._rename(temporary, place)
            finally:
                remove(temporary)

    def move(self, source: P, destination: P) -> None:
        origin, place = self._transfer(source, destination)
        with self._os_errors(destination):
            try:
                self._rename(origin, place)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self.copy(source, destination)
                self.delete_all(source)

    def create_symlink(self, source: P, link: P, *, overwrite: bool = False) -> None:
        origin = self._place(source)
        if not os.path.exists(origin):
            raise self._error(PathNotFoundError, "a link needs an existing source", source)
        place = self._free_place(link, over_link=overwrite)
        if _passes(origin, place):
            raise self._error(StorageResolutionError, "a link cannot lead to itself", link)
        temporary = temporary_name(place)
        with self._os_errors(link):
            os.symlink(Path(origin).absolute(), temporary)
            try:
                publish_file(temporary, place, overwrite=overwrite)
            finally:
                remove(temporary)

    @staticmethod
    def _rename(origin: str, place: str) -> None:
        if Path(origin).is_dir() and not Path(origin).is_symlink():
            os.rename(origin, place)
        else:
            publish_file(origin, place, overwrite=False)

    def _transfer(self, source: P, destination: P) -> tuple[str, str]:
        origin, place = self._present(source), self._free_place(destination)
        inside = os.path.realpath(Path(place).parent) + os.sep
        if not Path(origin).is_symlink() and inside.startswith(os.path.realpath(origin) + os.sep):
            raise self._error(
                InvalidPathError, f"a directory cannot go into itself ({source!s})", destination
            )
        return origin, place

    # Places

    def _place(self, path: P, *, follow: bool = True) -> str:
        """Return the path of the operating system; within the root, also where links lead."""
        if self._root is None:
            return as_text(path, backend=self._backend_type)
        place = str(Path(self._root, *split(path, backend=self._backend_type)))
        leads_to = place if follow or place == self._root else str(Path(place).parent)
        resolved = os.path.realpath(leads_to)
        if resolved != self._root and not resolved.startswith(self._root.rstrip("/") + os.sep):
            raise self._error(InvalidPathError, "a symbolic link leads out of the root", path)
        return place

    def _present(self, path: P) -> str:
        """Return where an existing path itself is, a link not followed; never the root."""
        place = self._place(path, follow=False)
        if place == self._root:
            raise self._error(InvalidPathError, "the root always exists and stays", path)
        if not os.path.lexists(place):
            raise self._error(PathNotFoundError, "no such file or directory", path)
        return place

    def _free_place(self, path: P, *, over_link: bool = False) -> str:
        place = self._place(path, follow=False)
        if os.path.lexists(place) and not (over_link and Path(place).is_symlink()):
            raise self._error(PathExistsError, "the path exists already", path)
        parent = str(Path(place).parent)
        if not self._is_directory(parent):
            kind = PathNotDirectoryError if os.path.exists(parent) else PathNotFoundError
            raise self._error(kind, "the parent directory is missing", path)
        return place

    def _target(self, link: str) -> str:
        return str(Path(link).parent / os.readlink(link))

    def _shown(self, place: str) -> str:
        """Return a place as a path of this backend."""
        if self._root is None:
            return place
        relative = os.path.relpath(place, self._root)
        return join(Path(relative).parts)

    def _identity(self, path: P) -> str:
        return os.path.realpath(self._place(path))

    # Errors

    @contextmanager
    def _os_errors(self, path: P) -> Iterator[None]:
        """Let errors of the operating system out as ours, with path, backend and cause."""
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            kind, meaning = _MEANING.get(
                error.errno or 0,
                (StorageWriteError, f"the file system refused: {error.strerror or error}"),
            )
            raise self._error(kind, meaning, path) from error

    def _error(self, kind: type[StorageError], message: str, path: P) -> StorageError:
        return kind(message, path=str(path), backend=self._backend_type)


def _passes(path: str, link: str) -> bool:
    """Tell whether resolving `path` goes through `link`."""
    wanted = _itself(link)
    ahead, links = [Path(path).absolute()], 0
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
