"""The nodes of a path tree: directories, links and entries, and the ways to find and copy them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from polystore.exceptions import (
    PathExistsError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageError,
    StorageResolutionError,
)
from polystore.paths import MOST_LINKS, P, display, join, split
from polystore.stat import Details

__all__ = [
    "Directory",
    "Entry",
    "Link",
    "Location",
    "State",
    "cloned",
    "directories_below",
    "entries_below",
    "find",
    "find_beside",
    "find_free",
    "is_reached_through",
    "node_at",
    "nodes_below",
    "outline",
    "replaced",
    "restored",
    "state_of",
]

_NO_NAMES = frozenset({"", ".", ".."})

State = tuple[list[tuple[int, str]], list[tuple[int, str, Any]]]
"""A tree without nested directories, so that the deepest tree can be pickled."""


class Entry(Protocol):
    """The value that a tree holds for a file: it has a version and describes itself."""

    @property
    def version(self) -> int:
        """Return a number that no later value of the path has."""

    def describe(self) -> Details:
        """Return ``size``, ``modified``, ``version`` and, for arrays, ``shape`` and ``dtype``."""


class Directory(dict[str, Any]):
    """Names to nodes: a directory, a link, or an entry."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link to an absolute path."""

    target: str


class Location(NamedTuple):
    """Where a path leads: a name in a directory, and the node there, None for nothing.

    The root has no name. Where parents are missing, `missing` holds their names.
    """

    names: tuple[str, ...]
    directory: Directory
    node: Any
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the last name."""
        return self.names[-1]


def replaced(locations: Sequence[Location]) -> list[Any]:
    """Return the entries at locations of `PathTree.check_put`."""
    return [location.node for location in locations if location.node is not None]


def find(root: Directory, path: P, *, follow: bool, backend: str) -> Location:
    """Return where `path` leads, through links; also through a last one where `follow`.

    Raises `PathNotDirectoryError` if the path leads through a file; `StorageResolutionError` if
    links lead in a circle.
    """
    ahead = split(path, backend=backend)[::-1]
    names: list[str] = []
    directory = root
    node: Any = root
    links = 0
    while ahead:
        if not isinstance(node, Directory):
            raise PathNotDirectoryError(
                f"{join(names)!r} is a file", path=display(path), backend=backend
            )
        directory = node
        name = ahead.pop()
        names.append(name)
        node = directory.get(name)
        if node is None:
            whole = (*names, *reversed(ahead))
            return Location(whole, directory, None, missing=whole[len(names) - 1 : -1])
        if isinstance(node, Link) and (ahead or follow):
            links += 1
            if links > MOST_LINKS:
                raise StorageResolutionError(
                    "links lead in a circle", path=display(path), backend=backend
                )
            ahead += split(node.target)[::-1]
            names, node, directory = [], root, root
    return Location(tuple(names), directory, node)


def node_at(root: Directory, path: P) -> Any:
    """Return the node of a path in normal form without links; None where `find` is needed."""
    if not isinstance(path, str) or path[:1] != "/":
        return None
    node: Any = root
    # No directory holds "", "." or "..", so that other spellings find nothing here.
    for name in path[1:].split("/"):
        if type(node) is not Directory:
            return None
        node = node.get(name)
    return None if isinstance(node, Link) else node


def find_beside(
    root: Directory, path: P, parents: dict[str, Location], *, backend: str
) -> Location | None:
    """Return where a path of a batch leads, by its parent; None where `find` is needed.

    `parents` keeps the parents of the batch, each of which is then found once.
    """
    if not isinstance(path, str):
        return None
    head, _, name = path.rpartition("/")
    if name in _NO_NAMES or "\0" in name:
        return None
    parent = parents.get(head)
    if parent is None:
        try:
            parent = parents[head] = find(root, head or "/", follow=True, backend=backend)
        except StorageResolutionError:
            return None
    names, _, directory, missing = parent
    if type(directory) is Directory:
        node = directory.get(name)
        return None if type(node) is Link else Location((*names, name), directory, node)
    if directory is None:
        return Location((*names, name), parent.directory, None, (*missing, names[-1]))
    return None


def is_reached_through(root: Directory, path: P, names: tuple[str, ...]) -> bool:
    """Return whether a path is resolved through the node at `names`."""
    ahead, here, links = split(path)[::-1], list[str](), 0
    node: Any = root
    while ahead and isinstance(node, Directory):
        name = ahead.pop()
        here.append(name)
        if len(here) == len(names) and tuple(here) == names:
            return True
        node = node.get(name)
        if isinstance(node, Link) and links < MOST_LINKS:
            links += 1
            ahead += split(node.target)[::-1]
            here, node = [], root
    return False


def entries_below(node: Any) -> Iterator[Any]:
    """Yield every entry at and below a node."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Directory):
            waiting.extend(node.values())
        elif not isinstance(node, Link):
            yield node


def directories_below(root: Directory) -> Iterator[Directory]:
    """Yield every directory of a tree, breadth first."""
    waiting = [root]
    for directory in waiting:  # the list grows during the loop
        yield directory
        waiting.extend(node for node in directory.values() if isinstance(node, Directory))


def nodes_below(node: Any, path: str, *, recursive: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield a node and every node below it, each with its path; the first is at `path`.

    Unless `recursive`, directories in a directory are not descended.
    """
    waiting = [(path, node, True)]
    while waiting:
        here, node, is_descended = waiting.pop()
        yield here, node
        if is_descended and isinstance(node, Directory):
            prefix = here.rstrip("/")
            waiting += [(f"{prefix}/{name}", child, recursive) for name, child in node.items()]


def outline(directory: Directory, path: str) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Return the directories, the links with their targets, and the files below a directory."""
    directories: list[str] = []
    links: list[tuple[str, str]] = []
    files: list[str] = []
    nodes = nodes_below(directory, path)
    next(nodes)  # the directory itself
    for where, node in nodes:
        if isinstance(node, Directory):
            directories.append(where)
        elif isinstance(node, Link):
            links.append((where, node.target))
        else:
            files.append(where)
    return directories, links, files


def find_free(root: Directory, path: P, *, over_file: bool = False, backend: str) -> Location:
    """Return the location of a path that is free, or a file or a link where `over_file`."""
    location = find(root, path, follow=False, backend=backend)
    error: type[StorageError] = PathExistsError
    if location.missing:
        error, message = PathNotFoundError, "the parent directory is missing"
    elif location.node is not None and not over_file:
        message = "the path exists already"
    elif isinstance(location.node, Directory):
        message = "the path is a directory"
    else:
        return location
    raise error(message, path=display(path), backend=backend)


def cloned(node: Any) -> Any:
    """Return a copy of a tree with new directories; entries and links are immutable."""
    if not isinstance(node, Directory):
        return node
    top = Directory()
    waiting = [(node, top)]
    while waiting:
        old, new = waiting.pop()
        for name, child in old.items():
            if isinstance(child, Directory):
                new[name] = Directory()
                waiting.append((child, new[name]))
            else:
                new[name] = child
    return top


def state_of(root: Directory) -> State:
    """Return a tree as two flat lists: its directories, and its links and entries."""
    below: list[tuple[int, str]] = []
    others: list[tuple[int, str, Any]] = []
    for number, directory in enumerate(directories_below(root)):
        for name, node in directory.items():
            if isinstance(node, Directory):
                below.append((number, name))
            else:
                others.append((number, name, node))
    return below, others


def restored(state: State) -> Directory:
    """Return the tree of a state: the inverse of `state_of`."""
    below, others = state
    root = Directory()
    directories = [root]
    for number, name in below:
        directory = directories[number][name] = Directory()
        directories.append(directory)
    for number, name, node in others:
        directories[number][name] = node
    return root
