"""The path tree: files, directories and links as a plain data structure, without values or I/O.

The memory backend and the controller of a cluster use it: the entries of the first hold
snapshots, those of the second object references. It is not thread-safe; its owner holds a lock
around each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from polystore.arguments import check_apart
from polystore.error_translation import located
from polystore.exceptions import (
    DirectoryNotEmptyError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
    VersionConflictError,
)
from polystore.path_nodes import (
    Directory,
    Entry,
    Link,
    Location,
    State,
    cloned,
    directories_below,
    entries_below,
    find,
    find_beside,
    find_free,
    is_reached_through,
    node_at,
    nodes_below,
    outline,
    replaced,
    restored,
    state_of,
)
from polystore.paths import NameFilter, P, check_distinct, display, file_order, normalize
from polystore.stat import Stat

__all__ = ["Entry", "Location", "PathTree", "replaced"]

E = TypeVar("E", bound=Entry)


class PathTree(Generic[E]):
    """A tree of files, directories and symbolic links, rooted at ``/``.

    The cost of a lookup grows with the depth of its path, that of a listing with the number of
    listed paths; the move of a tree is one step. Links hold absolute paths. A change that raises
    changes nothing.

    - `backend`: the key of the backend, for errors
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._root = Directory()

    def __getstate__(self) -> tuple[str, State]:
        return self._backend, state_of(self._root)

    def __setstate__(self, state: tuple[str, State]) -> None:
        self._backend = state[0]
        self._root = restored(state[1])

    # Reading

    def get(self, path: P) -> E:
        """Return the entry at `path`.

        Raises `PathNotFoundError` if nothing is there; `PathIsDirectoryError` if it is a directory.
        """
        node = node_at(self._root, path) or self._existing(path, "no such file").node
        if isinstance(node, Directory):
            raise self._error(PathIsDirectoryError, "the path is a directory", path)
        entry: E = node
        return entry

    def exists(self, path: P) -> bool:
        """Return whether `path` leads to anything; a dangling link does not."""
        return self._target(path) is not None

    def is_file(self, path: P) -> bool:
        """Return whether `path` leads, also through links, to an entry."""
        node = self._target(path)
        return node is not None and not isinstance(node, Directory)

    def is_dir(self, path: P) -> bool:
        """Return whether `path` leads, also through links, to a directory."""
        return isinstance(self._target(path), Directory)

    def is_symlink(self, path: P) -> bool:
        """Return whether `path` itself is a link."""
        location = self.reached(path, follow=False)
        return location is not None and isinstance(location.node, Link)

    def list_dir(self, path: P) -> list[str]:
        """Return the names in a directory, in plain order."""
        return sorted(self._directory(path))

    def list_files(
        self,
        path: P,
        pattern: str | None = None,
        extensions: Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        """Return the paths of the files in a directory; see `DataSource.list_files`."""
        with located(path, self._backend):
            selected = NameFilter(pattern, extensions)
        found = nodes_below(self._directory(path), normalize(path), recursive=recursive)
        files = [
            where
            for where, node in found
            if not isinstance(node, Directory)
            and selected(where.rpartition("/")[2])
            and (not isinstance(node, Link) or self.is_file(where))
        ]
        return sorted(files, key=file_order)

    def entries(self, path: P) -> Iterator[tuple[str, E]]:
        """Return the path and the entry of each file at and below `path`, except through links.

        Raises `PathNotFoundError` if nothing is there.
        """
        found = nodes_below(self._existing(path).node, normalize(path))
        return ((where, node) for where, node in found if not isinstance(node, Directory | Link))

    def outline(self, path: P) -> tuple[list[str], list[tuple[str, str]], list[str]]:
        """Return what is below a directory: directories, links with their targets, and files.

        Links are not followed, and dangling ones are listed too.
        """
        return outline(self._directory(path), normalize(path))

    def stat(self, path: P) -> Stat:
        """Describe `path`; see `DataSource.stat`."""
        node, itself = self._target(path), self.reached(path, follow=False)
        stat: Stat = {
            "type": "missing",
            "path": normalize(path, backend=self._backend),
            "exists": node is not None,
        }
        if isinstance(node, Directory):
            stat["type"] = "directory"
        elif node is not None:
            entry: Entry = node
            stat = {**stat, **entry.describe(), "type": "file"}
        if itself is not None and isinstance(itself.node, Link):
            stat |= {"type": "symlink", "target": itself.node.target}
        return stat

    def reached(self, path: P, *, follow: bool = True) -> Location | None:
        """Return where `path` leads; None if it leads through a file or in a circle."""
        try:
            return self._find(path, follow=follow)
        except InvalidPathError:
            raise
        except StorageResolutionError:
            return None

    # Changing

    def check_put(
        self,
        paths: Sequence[P],
        *,
        overwrite: bool = False,
        parents: bool = False,
        if_version: int | None = None,
    ) -> list[Location]:
        """Raise the errors that `put` of these paths raises; return the locations of the paths.

        Raises `PathExistsError` if one exists, without `overwrite`, or occurs twice;
        `VersionConflictError` if one has another version than `if_version`; `PathIsDirectoryError`
        if one is a directory, with `overwrite`; `PathNotFoundError` if a parent is missing, without
        `parents`; with `if_version`, if the path is missing; `PathNotDirectoryError` if a parent is
        a file, or another path of the batch.
        """
        locations: list[Location] = []
        parents_of: dict[str, Location] = {}  # each parent is looked up once
        for path in paths:
            location = find_beside(self._root, path, parents_of, backend=self._backend)
            location = location or self._find(path)
            if location.node is not None:
                self._check_replaced(location.node, path, overwrite, if_version)
            elif if_version is not None:
                raise self._error(PathNotFoundError, "no such file", path)
            elif location.missing and not parents:
                message = "the parent directory is missing; parents=True creates it"
                raise self._error(PathNotFoundError, message, path)
            locations.append(location)
        if len(locations) > 1:
            names = [location.names for location in locations]
            if any(location.missing for location in locations):
                check_apart(names, lambda location: location[:-1], paths, backend=self._backend)
            else:  # no path can lie inside another: their parents are directories
                check_distinct(names, paths, backend=self._backend)
        return locations

    def put(
        self,
        items: Sequence[tuple[P, E]],
        *,
        overwrite: bool = False,
        parents: bool = False,
        if_version: int | None = None,
    ) -> list[E]:
        """Set the entries of paths, all or none, as `check_put` allows; return replaced entries."""
        options: Any = {"overwrite": overwrite, "parents": parents, "if_version": if_version}
        locations = self.check_put([path for path, _ in items], **options)
        self.set(locations, [entry for _, entry in items])
        return replaced(locations)

    def set(self, locations: Sequence[Location], entries: Sequence[E]) -> None:
        """Set entries at locations of `check_put`; nothing has changed in between."""
        for location, entry in zip(locations, entries, strict=True):
            # An earlier path of the batch may have created some missing parents.
            directory = self._make(location.names[:-1]) if location.missing else location.directory
            directory[location.names[-1]] = entry

    def ensure_directory(self, path: P) -> str:
        """Create a directory and its missing ancestors; return its path.

        Raises `PathExistsError` if the path or a part of it is a file.
        """
        try:
            location = self._find(path)
        except PathNotDirectoryError as error:
            raise self._error(PathExistsError, "a part of the path is a file", path) from error
        if location.node is None:
            self._make(location.names)
        elif not isinstance(location.node, Directory):
            raise self._error(PathExistsError, "the path is a file", path)
        return normalize(path)

    def create_symlink(self, source: P, link: P, overwrite: bool = False) -> list[E]:
        """Make `link` a link to `source`; return the entries that it replaces.

        Raises `PathNotFoundError` if the source or the link's parent is missing; `PathExistsError`
        if the link's path exists; with `overwrite`, if it is a directory; `StorageResolutionError`
        if the link would lead to itself.
        """
        target = normalize(source, backend=self._backend)
        if self._target(source) is None:
            raise self._error(PathNotFoundError, "a link needs an existing source", source)
        location = find_free(self._root, link, over_file=overwrite, backend=self._backend)
        if is_reached_through(self._root, source, location.names):
            raise self._error(StorageResolutionError, "a link cannot lead to itself", link)
        location.directory[location.name] = Link(target)
        return [] if location.node is None else list(entries_below(location.node))

    def delete(self, path: P) -> list[E]:
        """Delete a file, a link or an empty directory; return the dropped entries.

        Raises `PathNotFoundError` if nothing is there; `DirectoryNotEmptyError` if it is a
        directory with something in it.
        """
        location = self._present(path)
        if isinstance(location.node, Directory) and location.node:
            raise self._error(
                DirectoryNotEmptyError, "the directory is not empty; delete_all takes a tree", path
            )
        return self._drop(location)

    def delete_all(self, path: P) -> list[E]:
        """Delete a file, a link or a whole tree, in one step; return the dropped entries."""
        return self._drop(self._present(path))

    def clear_files(self) -> None:
        """Delete every file and link, and keep the directories."""
        for directory in directories_below(self._root):
            for name in [n for n, node in directory.items() if not isinstance(node, Directory)]:
                del directory[name]

    def move(self, source: P, destination: P) -> None:
        """Move a file, a tree or a link, in one step.

        Raises `PathNotFoundError` if the source or the destination's parent is missing;
        `PathExistsError` if the destination exists; `InvalidPathError` if a directory would go into
        itself.
        """
        origin, location = self._transfer(source, destination)
        location.directory[location.name] = origin.directory.pop(origin.name)

    def copy(self, source: P, destination: P) -> list[E]:
        """Copy a file, a tree or a link, in one step; return the entries that now exist twice."""
        origin, location = self._transfer(source, destination)
        location.directory[location.name] = cloned(origin.node)
        return list(entries_below(origin.node))

    def snapshot(self, source: P, destination: P) -> list[E]:
        """Copy a directory, also into itself, in one step; return entries that now exist twice."""
        copied = cloned(self._directory(source))
        location = find_free(self._root, destination, backend=self._backend)
        location.directory[location.name] = copied
        return list(entries_below(copied))

    def graft(self, path: P, links: Iterable[tuple[P, P]] = ()) -> None:
        """Move what a directory holds to the root, and delete the directory, in one step.

        An error leaves everything outside of the directory as it was.

        - `links`: links that are made at the same time, as they are at the root, and their targets,
          which may be missing

        Raises `PathExistsError` if the root has something of the same name, or a link's path
        exists; `PathNotFoundError` if the directory, or the parent of a link, is missing.
        """
        origin, directory = self._present(path), self._directory(path)
        for link, target in links:
            location = find_free(directory, link, backend=self._backend)
            location.directory[location.name] = Link(normalize(target, backend=self._backend))
        for name in directory.keys() & self._root.keys():
            raise self._error(PathExistsError, "the path exists already", f"/{name}")
        del origin.directory[origin.name]
        self._root.update(directory)

    # Finding

    def _find(self, path: P, *, follow: bool = True) -> Location:
        return find(self._root, path, follow=follow, backend=self._backend)

    def _target(self, path: P) -> Any:
        """Return the node that `path` leads to, or None."""
        location = self.reached(path)
        return None if location is None else location.node

    def _existing(
        self, path: P, otherwise: str = "no such file or directory", *, follow: bool = True
    ) -> Location:
        """Return where an existing path leads."""
        try:
            location = self._find(path, follow=follow)
        except PathNotDirectoryError as error:
            raise self._error(PathNotFoundError, otherwise, path) from error
        if location.node is None:
            raise self._error(PathNotFoundError, otherwise, path)
        return location

    def _directory(self, path: P) -> Directory:
        node = self._existing(path, "no such directory").node
        if not isinstance(node, Directory):
            raise self._error(PathNotDirectoryError, "the path is a file", path)
        return node

    def _present(self, path: P) -> Location:
        """Return the location of an existing path, a link not followed; never the root."""
        location = self._existing(path, follow=False)
        if not location.names:
            raise self._error(InvalidPathError, "the root always exists and stays", path)
        return location

    def _check_replaced(self, node: Any, path: P, overwrite: bool, if_version: int | None) -> None:
        if isinstance(node, Directory):
            kind = PathIsDirectoryError if overwrite or if_version else PathExistsError
            raise self._error(kind, "the path is a directory", path)
        if if_version is not None and node.version != if_version:
            raise self._error(
                VersionConflictError,
                f"the value has version {node.version}, not {if_version}, since another save "
                f"replaced it; load it again",
                path,
            )
        if not overwrite and if_version is None:
            raise self._error(
                PathExistsError, "the path exists already; overwrite=True replaces it", path
            )

    def _transfer(self, source: P, destination: P) -> tuple[Location, Location]:
        origin = self._present(source)
        location = find_free(self._root, destination, backend=self._backend)
        if location.names[: len(origin.names)] == origin.names:
            message = f"a directory cannot go into itself ({display(source)})"
            raise self._error(InvalidPathError, message, destination)
        return origin, location

    # Changing, after all checks

    def _make(self, names: Iterable[str]) -> Directory:
        directory = self._root
        for name in names:
            directory = directory.setdefault(name, Directory())
        return directory

    def _drop(self, location: Location) -> list[E]:
        return list(entries_below(location.directory.pop(location.name)))

    def _error(self, kind: type[StorageError], message: str, path: P) -> StorageError:
        return kind(message, path=display(path), backend=self._backend)
