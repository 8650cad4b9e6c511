"""The path tree: files, directories and links as a plain data structure, with no values and no I/O.

It serves the memory backend, whose entries hold snapshots, and the controller of a cluster, whose
entries hold object references: one tree, one set of semantics. It is not thread-safe; whoever owns
it holds a lock around each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

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
from polystore.paths import (
    MOST_LINKS,
    NameFilter,
    P,
    check_distinct,
    display,
    file_order,
    join,
    normalize,
    split,
)
from polystore.stat import Details, Stat

__all__ = ["Entry", "PathTree", "Place", "replaced"]

_NO_NAMES = frozenset({"", ".", ".."})


class Entry(Protocol):
    """What a tree keeps for a file: anything that has a version and can describe itself."""

    @property
    def version(self) -> int:
        """Return a number that no later value of the path has."""

    def describe(self) -> Details:
        """Return ``size``, ``modified``, ``version`` and, for arrays, ``shape`` and ``dtype``."""


E = TypeVar("E", bound=Entry)


class _Directory(dict[str, Any]):
    """Names to nodes: a directory, a link, or an entry."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Link:
    target: str


class Place(NamedTuple):
    """Where a path leads: a name in a directory and what is there, None for nothing.

    The root has no name. Where parents are missing, `missing` names what has to be made.
    """

    names: tuple[str, ...]
    directory: _Directory
    node: Any
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.names[-1]


class PathTree(Generic[E]):
    """A tree of files, directories and symbolic links, rooted at ``/``.

    A lookup costs the depth of its path, a listing what it lists, and the move of a tree one step.
    Links hold absolute paths. Every change either happens whole or raises and changes nothing.

    Parameters
    ----------
    backend : str
        The key that errors name.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._root = _Directory()

    # Pickles hold no nested directories, so that the deepest tree can be pickled

    def __getstate__(self) -> tuple[str, list[tuple[int, str]], list[tuple[int, str, Any]]]:
        directories = [self._root]
        below: list[tuple[int, str]] = []
        others: list[tuple[int, str, Any]] = []
        for number, directory in enumerate(directories):
            for name, node in directory.items():
                if isinstance(node, _Directory):
                    directories.append(node)
                    below.append((number, name))
                else:
                    others.append((number, name, node))
        return self._backend, below, others

    def __setstate__(
        self, state: tuple[str, list[tuple[int, str]], list[tuple[int, str, Any]]]
    ) -> None:
        self._backend, below, others = state
        self._root = _Directory()
        directories = [self._root]
        for number, name in below:
            directory = directories[number][name] = _Directory()
            directories.append(directory)
        for number, name, node in others:
            directories[number][name] = node

    # Reading

    def get(self, path: P) -> E:
        """Return the entry at `path`.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        PathIsDirectoryError
            If it is a directory.
        """
        node = self._straight(path) or self._existing(path, "no such file")
        if isinstance(node, _Directory):
            raise self._error(PathIsDirectoryError, "the path is a directory", path)
        entry: E = node
        return entry

    def exists(self, path: P) -> bool:
        """Tell whether `path` leads to anything; a dangling link does not."""
        return self._target(path) is not None

    def is_file(self, path: P) -> bool:
        """Tell whether `path` leads, also through links, to an entry."""
        node = self._target(path)
        return node is not None and not isinstance(node, _Directory)

    def is_dir(self, path: P) -> bool:
        """Tell whether `path` leads, also through links, to a directory."""
        return isinstance(self._target(path), _Directory)

    def is_symlink(self, path: P) -> bool:
        """Tell whether `path` itself is a link."""
        place = self._reached(path, follow=False)
        return place is not None and isinstance(place.node, _Link)

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
        found: list[str] = []
        top = self._directory(path)
        waiting = [(normalize(path).rstrip("/"), top)]
        while waiting:
            prefix, directory = waiting.pop()
            for name, node in directory.items():
                if isinstance(node, _Directory):
                    if recursive:
                        waiting.append((f"{prefix}/{name}", node))
                elif selected(name) and (
                    not isinstance(node, _Link) or self.is_file(f"{prefix}/{name}")
                ):
                    found.append(f"{prefix}/{name}")
        return sorted(found, key=file_order)

    def stat(self, path: P) -> Stat:
        """Describe `path`; see `DataSource.stat`."""
        node = self._target(path)
        stat: Stat = {
            "type": "directory" if isinstance(node, _Directory) else "file",
            "path": normalize(path, backend=self._backend),
            "exists": node is not None,
        }
        if self.is_symlink(path):
            stat["type"] = "symlink"
            stat["target"] = self._find(path, follow=False).node.target
        elif node is None:
            stat["type"] = "missing"
        if node is not None and not isinstance(node, _Directory):
            details: Details = node.describe()
            stat = {**stat, **details}
        return stat

    # Changing

    def check_put(
        self,
        paths: Sequence[P],
        *,
        overwrite: bool = False,
        parents: bool = False,
        if_version: int | None = None,
    ) -> list[Place]:
        """Raise what `put` of these paths would raise; return where they lead.

        Raises
        ------
        PathExistsError
            If one exists (unless `overwrite`), occurs twice, or lies in another one.
        VersionConflictError
            If one has another version than `if_version`.
        PathIsDirectoryError
            If one is a directory, with `overwrite`.
        PathNotFoundError
            If a parent is missing, unless `parents`; with `if_version`, if the path is.
        PathNotDirectoryError
            If a parent is a file.
        """
        places: list[Place] = []
        parents_of: dict[str, Place] = {}  # what the batch has in common is looked up once
        for path in paths:
            place = self._beside_others(path, parents_of) or self._find(path)
            if place.node is not None:
                self._check_replaced(place.node, path, overwrite, if_version)
            elif if_version is not None:
                raise self._error(PathNotFoundError, "no such file", path)
            elif place.missing and not parents:
                raise self._error(
                    PathNotFoundError,
                    "the parent directory is missing; parents=True makes it",
                    path,
                )
            places.append(place)
        if len(places) > 1:
            names = [place.names for place in places]
            if any(place.missing for place in places):
                check_apart(names, lambda place: place[:-1], paths, backend=self._backend)
            else:  # no path can lie inside another: their parents are directories
                check_distinct(names, paths, backend=self._backend)
        return places

    def put(
        self,
        items: Sequence[tuple[P, E]],
        *,
        overwrite: bool = False,
        parents: bool = False,
        if_version: int | None = None,
    ) -> list[E]:
        """Set the entries of one or many paths, all or none; return the entries replaced.

        Raises
        ------
        StorageError
            As `check_put`.
        """
        places = self.check_put(
            [path for path, _ in items],
            overwrite=overwrite,
            parents=parents,
            if_version=if_version,
        )
        self.set(places, [entry for _, entry in items])
        return replaced(places)

    def set(self, places: Sequence[Place], entries: Sequence[E]) -> None:
        """Set entries where `check_put` found, with no other change since, that they can be."""
        for place, entry in zip(places, entries, strict=True):
            # An earlier path of the batch may have made some of what was missing.
            directory = self._make(place.names[:-1]) if place.missing else place.directory
            directory[place.names[-1]] = entry

    def ensure_directory(self, path: P) -> str:
        """Make a directory and its ancestors where they are missing; return its path.

        Raises
        ------
        PathExistsError
            If the path, or a part of it, is a file.
        """
        try:
            place = self._find(path)
        except PathNotDirectoryError as error:
            raise self._error(PathExistsError, "a part of the path is a file", path) from error
        if place.node is None:
            self._make(place.names)
        elif not isinstance(place.node, _Directory):
            raise self._error(PathExistsError, "the path is a file", path)
        return normalize(path)

    def create_symlink(self, source: P, link: P, overwrite: bool = False) -> None:
        """Make `link` a link to `source`.

        Raises
        ------
        PathNotFoundError
            If the source or the link's parent is missing.
        PathExistsError
            If the link's path exists; with `overwrite`, if it is not a link.
        StorageResolutionError
            If the link would lead to itself.
        """
        target = normalize(source, backend=self._backend)
        if self._target(source) is None:
            raise self._error(PathNotFoundError, "a link needs an existing source", source)
        place = self._free_place(link, instead_of=_Link if overwrite else None)
        if self._passes(source, place.names):
            raise self._error(StorageResolutionError, "a link cannot lead to itself", link)
        place.directory[place.name] = _Link(target)

    def delete(self, path: P) -> list[E]:
        """Delete a file, a link or an empty directory; return the entries dropped.

        Raises
        ------
        PathNotFoundError
            If nothing is there.
        DirectoryNotEmptyError
            If it is a directory with something in it.
        """
        place = self._present(path)
        if isinstance(place.node, _Directory) and place.node:
            raise self._error(
                DirectoryNotEmptyError, "the directory is not empty; delete_all takes a tree", path
            )
        return self._drop(place)

    def delete_all(self, path: P) -> list[E]:
        """Delete a file, a link or a whole tree, in one step; return the entries dropped."""
        return self._drop(self._present(path))

    def move(self, source: P, destination: P) -> None:
        """Move a file, a tree or a link, in one step.

        Raises
        ------
        PathNotFoundError
            If the source or the destination's parent is missing.
        PathExistsError
            If the destination exists.
        InvalidPathError
            If a directory would go into itself.
        """
        origin, place = self._transfer(source, destination)
        place.directory[place.name] = origin.directory.pop(origin.name)

    def copy(self, source: P, destination: P) -> list[E]:
        """Copy a file, a tree or a link, in one step; return the entries that stand twice now.

        Raises
        ------
        StorageError
            As `move`.
        """
        origin, place = self._transfer(source, destination)
        place.directory[place.name] = _cloned(origin.node)
        return list(_entries(origin.node))

    # Finding

    def _find(self, path: P, *, follow: bool = True) -> Place:
        """Walk to `path`, through links; also through a last one where `follow`.

        Raises
        ------
        PathNotDirectoryError
            If the path leads through a file.
        StorageResolutionError
            If links lead in a circle.
        """
        ahead = split(path, backend=self._backend)[::-1]
        names: list[str] = []
        directory = self._root
        node: Any = self._root
        links = 0
        while ahead:
            if not isinstance(node, _Directory):
                raise self._error(PathNotDirectoryError, f"{join(names)!r} is a file", path)
            directory = node
            name = ahead.pop()
            names.append(name)
            node = directory.get(name)
            if node is None:
                place = (*names, *reversed(ahead))
                return Place(place, directory, None, missing=place[len(names) - 1 : -1])
            if isinstance(node, _Link) and (ahead or follow):
                links += 1
                if links > MOST_LINKS:
                    raise self._error(StorageResolutionError, "links lead in a circle", path)
                ahead += split(node.target)[::-1]
                names, node, directory = [], self._root, self._root
        return Place(tuple(names), directory, node)

    def _straight(self, path: P) -> Any:
        """Return the node of a path in its normal form without links; None to walk with care."""
        if not isinstance(path, str) or path[:1] != "/":
            return None
        node: Any = self._root
        # No directory holds "", "." or "..", so that other spellings find nothing here.
        for name in path[1:].split("/"):
            if type(node) is not _Directory:
                return None
            node = node.get(name)
        return None if isinstance(node, _Link) else node

    def _beside_others(self, path: P, parents_of: dict[str, Place]) -> Place | None:
        """Return where a path leads whose parent is that of others; None to walk with care."""
        if not isinstance(path, str):
            return None
        head, _, name = path.rpartition("/")
        if name in _NO_NAMES or "\0" in name:
            return None
        parent = parents_of.get(head)
        if parent is None:
            try:
                parent = parents_of[head] = self._find(head or "/")
            except StorageResolutionError:
                return None
        names, _, directory, missing = parent
        if type(directory) is _Directory:
            node = directory.get(name)
            return None if type(node) is _Link else Place((*names, name), directory, node)
        if directory is None:
            return Place((*names, name), parent.directory, None, (*missing, names[-1]))
        return None

    def _target(self, path: P) -> Any:
        """Return the node that `path` leads to, or None."""
        place = self._reached(path)
        return None if place is None else place.node

    def _reached(self, path: P, *, follow: bool = True) -> Place | None:
        """Return where `path` leads, None through a file or in a circle: a question never fails."""
        try:
            return self._find(path, follow=follow)
        except InvalidPathError:
            raise
        except StorageResolutionError:
            return None

    def _passes(self, path: P, names: tuple[str, ...]) -> bool:
        """Return whether resolving `path` goes through the name at `names`."""
        ahead, here, links = split(path)[::-1], list[str](), 0
        node: Any = self._root
        while ahead and isinstance(node, _Directory):
            name = ahead.pop()
            here.append(name)
            if len(here) == len(names) and tuple(here) == names:
                return True
            node = node.get(name)
            if isinstance(node, _Link) and links < MOST_LINKS:
                links += 1
                ahead += split(node.target)[::-1]
                here, node = [], self._root
        return False

    def _existing(self, path: P, otherwise: str) -> Any:
        """Return the node that `path` leads to, or raise that it is missing."""
        try:
            node = self._find(path).node
        except PathNotDirectoryError:
            node = None
        if node is None:
            raise self._error(PathNotFoundError, otherwise, path)
        return node

    def _directory(self, path: P) -> _Directory:
        node = self._existing(path, "no such directory")
        if not isinstance(node, _Directory):
            raise self._error(PathNotDirectoryError, "the path is a file", path)
        return node

    def _present(self, path: P) -> Place:
        """Return where an existing path itself is, a link not followed; never the root."""
        try:
            place = self._find(path, follow=False)
        except PathNotDirectoryError as error:
            raise self._error(PathNotFoundError, "no such file or directory", path) from error
        if place.node is None:
            raise self._error(PathNotFoundError, "no such file or directory", path)
        if not place.names:
            raise self._error(InvalidPathError, "the root always exists and stays", path)
        return place

    def _free_place(self, path: P, *, instead_of: type | None = None) -> Place:
        """Return where `path` itself can be set: its parent is there, and nothing else."""
        place = self._find(path, follow=False)
        if place.missing:
            raise self._error(PathNotFoundError, "the parent directory is missing", path)
        if place.node is not None and not (instead_of and isinstance(place.node, instead_of)):
            raise self._error(PathExistsError, "the path exists already", path)
        return place

    def _check_replaced(self, node: Any, path: P, overwrite: bool, if_version: int | None) -> None:
        if isinstance(node, _Directory):
            kind = PathIsDirectoryError if overwrite or if_version else PathExistsError
            raise self._error(kind, "the path is a directory", path)
        if if_version is not None and node.version != if_version:
            raise self._error(
                VersionConflictError,
                f"the value has version {node.version}, not {if_version}: it was replaced in "
                f"between; load it again",
                path,
            )
        if not overwrite and if_version is None:
            raise self._error(
                PathExistsError, "the path exists already; overwrite=True replaces it", path
            )

    def _transfer(self, source: P, destination: P) -> tuple[Place, Place]:
        origin, place = self._present(source), self._free_place(destination)
        if place.names[: len(origin.names)] == origin.names:
            raise self._error(
                InvalidPathError,
                f"a directory cannot go into itself ({display(source)})",
                destination,
            )
        return origin, place

    # Changing, within checks that were made

    def _make(self, names: Iterable[str]) -> _Directory:
        directory = self._root
        for name in names:
            directory = directory.setdefault(name, _Directory())
        return directory

    def _drop(self, place: Place) -> list[E]:
        return list(_entries(place.directory.pop(place.name)))

    def _error(self, kind: type[StorageError], message: str, path: P) -> StorageError:
        return kind(message, path=display(path), backend=self._backend)


def replaced(places: Sequence[Place]) -> list[Any]:
    """Return the entries that are at places of `PathTree.check_put`."""
    return [place.node for place in places if place.node is not None]


def _entries(node: Any) -> Iterator[Any]:
    """Give every entry at and below a node."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Directory):
            waiting.extend(node.values())
        elif not isinstance(node, _Link):
            yield node


def _cloned(node: Any) -> Any:
    """Return the same tree in directories of its own; entries and links are immutable."""
    if not isinstance(node, _Directory):
        return node
    top = _Directory()
    waiting = [(node, top)]
    while waiting:
        old, new = waiting.pop()
        for name, child in old.items():
            if isinstance(child, _Directory):
                new[name] = _Directory()
                waiting.append((child, new[name]))
            else:
                new[name] = child
    return top
