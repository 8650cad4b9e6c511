"""The model that backends are compared with: a file tree in one dict, written for clarity."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from polystore.exceptions import (
    DirectoryNotEmptyError,
    InvalidPathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    StorageResolutionError,
)

__all__ = ["Model", "Names"]

Names = tuple[str, ...]
"""The names that lead from the root to a place."""


@dataclass(frozen=True)
class File:
    value: Any


@dataclass(frozen=True)
class Directory:
    pass


@dataclass(frozen=True)
class Link:
    target: Names


class Model:
    """Every node of a tree, by the names that lead to it; the root is always there."""

    def __init__(self) -> None:
        self.nodes: dict[Names, File | Directory | Link] = {(): Directory()}

    # Finding

    def find(self, names: Names, *, follow: bool = True) -> Names:
        """Return the names that lead to the same place without links."""
        here: Names = ()
        ahead, links = list(names), 0
        while ahead:
            node = self.nodes.get(here)
            if node is None:
                return (*here, *ahead)
            if not isinstance(node, Directory):
                raise PathNotDirectoryError("")
            here = (*here, ahead.pop(0))
            found = self.nodes.get(here)
            if isinstance(found, Link) and (ahead or follow):
                links += 1
                if links > 40:
                    raise StorageResolutionError("")
                ahead, here = [*found.target, *ahead], ()
        return here

    def at(self, names: Names) -> File | Directory | Link | None:
        """Return the node that a path leads to, or None."""
        try:
            return self.nodes.get(self.find(names))
        except (PathNotDirectoryError, StorageResolutionError):
            return None

    def below(self, names: Names) -> list[Names]:
        """Return everything under a directory."""
        return [n for n in self.nodes if len(n) > len(names) and n[: len(names)] == names]

    def children(self, names: Names) -> list[Names]:
        return [n for n in self.below(names) if len(n) == len(names) + 1]

    def itself(self, names: Names) -> Names:
        """Return the place of an existing path, a last link not followed."""
        try:
            place = self.find(names, follow=False)
        except PathNotDirectoryError:
            raise PathNotFoundError("") from None
        if place not in self.nodes:
            raise PathNotFoundError("")
        return place

    def free(self, names: Names, *, over_file: bool = False) -> Names:
        """Return the place where a path can be created, or replace a file or a link."""
        place = self.find(names, follow=False)
        node = self.nodes.get(place)
        if node is not None and (not over_file or isinstance(node, Directory)):
            raise PathExistsError("")
        if place[:-1] not in self.nodes:
            raise PathNotFoundError("")
        return place

    # Reading

    def exists(self, names: Names) -> bool:
        return self.at(names) is not None

    def is_file(self, names: Names) -> bool:
        return isinstance(self.at(names), File)

    def is_dir(self, names: Names) -> bool:
        return isinstance(self.at(names), Directory)

    def is_symlink(self, names: Names) -> bool:
        try:
            return isinstance(self.nodes.get(self.find(names, follow=False)), Link)
        except (PathNotDirectoryError, StorageResolutionError):
            return False

    def stat(self, names: Names) -> tuple[str, bool]:
        kind = "missing"
        if self.is_symlink(names):
            kind = "symlink"
        elif self.exists(names):
            kind = "file" if self.is_file(names) else "directory"
        return kind, self.exists(names)

    def present(self, names: Names) -> Names:
        """Return the place of an existing path, all links followed."""
        try:
            place = self.find(names)
        except PathNotDirectoryError:
            raise PathNotFoundError("") from None
        if place not in self.nodes:
            raise PathNotFoundError("")
        return place

    def load(self, names: Names) -> Any:
        node = self.nodes[self.present(names)]
        if not isinstance(node, File):
            raise PathIsDirectoryError("")
        return node.value

    def list_dir(self, names: Names) -> list[str]:
        place = self.present(names)
        if not isinstance(self.nodes[place], Directory):
            raise PathNotDirectoryError("")
        return sorted(child[-1] for child in self.children(place))

    def list_files(self, names: Names, pattern: str | None, recursive: bool) -> list[Names]:
        self.list_dir(names)
        place = self.find(names)
        found = [
            names + child[len(place) :]
            for child in (self.below(place) if recursive else self.children(place))
            if self.is_file(child) and (pattern is None or fnmatchcase(child[-1], pattern))
        ]
        return sorted(found, key=lambda child: (len(child), "/".join(child)))

    # Changing

    def check_save(self, names: Names, *, overwrite: bool, parents: bool) -> Names:
        place = self.find(names)
        node = self.nodes.get(place)
        if isinstance(node, Directory):
            raise (PathIsDirectoryError if overwrite else PathExistsError)("")
        if node is not None and not overwrite:
            raise PathExistsError("")
        if place[:-1] not in self.nodes and not parents:
            raise PathNotFoundError("")
        return place

    def save(self, value: Any, names: Names, *, overwrite: bool, parents: bool) -> None:
        place = self.check_save(names, overwrite=overwrite, parents=parents)
        self.make(place[:-1])
        self.nodes[place] = File(value)

    def save_batch(
        self, values: list[Any], paths: list[Names], *, overwrite: bool, parents: bool
    ) -> None:
        if len(set(paths)) < len(paths):
            raise PathExistsError("")
        places = [self.check_save(p, overwrite=overwrite, parents=parents) for p in paths]
        if len(set(places)) < len(places):
            raise PathExistsError("")
        if any(place[:depth] in places for place in places for depth in range(len(place))):
            raise PathNotDirectoryError("")
        for value, place in zip(values, places, strict=True):
            self.make(place[:-1])
            self.nodes[place] = File(value)

    def make(self, names: Names) -> None:
        for depth in range(len(names) + 1):
            self.nodes.setdefault(names[:depth], Directory())

    def ensure_directory(self, names: Names) -> None:
        try:
            place = self.find(names)
        except PathNotDirectoryError:
            raise PathExistsError("") from None
        if isinstance(self.nodes.get(place), File):
            raise PathExistsError("")
        self.make(place)

    def delete(self, names: Names) -> None:
        place = self.itself(names)
        if self.children(place):
            raise DirectoryNotEmptyError("")
        del self.nodes[place]

    def delete_all(self, names: Names) -> None:
        place = self.itself(names)
        for gone in [place, *self.below(place)]:
            del self.nodes[gone]

    def transfer(self, source: Names, destination: Names) -> tuple[Names, Names]:
        origin, place = self.itself(source), self.free(destination)
        if place[: len(origin)] == origin:
            raise InvalidPathError("")
        return origin, place

    def copy(self, source: Names, destination: Names) -> None:
        origin, place = self.transfer(source, destination)
        for old in [origin, *self.below(origin)]:
            self.nodes[place + old[len(origin) :]] = self.nodes[old]

    def move(self, source: Names, destination: Names) -> None:
        self.copy(source, destination)
        self.delete_all(source)

    def create_symlink(self, source: Names, link: Names, *, overwrite: bool) -> None:
        if not self.exists(source):
            raise PathNotFoundError("")
        place = self.free(link, over_file=overwrite)
        if self.passes(source, place):
            raise StorageResolutionError("")
        self.nodes[place] = Link(source)

    def passes(self, names: Names, place: Names) -> bool:
        """Return whether an existing path is resolved through a place."""
        here: Names = ()
        ahead = list(names)
        while ahead:
            here = (*here, ahead.pop(0))
            if here == place:
                return True
            found = self.nodes.get(here)
            if isinstance(found, Link):
                ahead, here = [*found.target, *ahead], ()
        return False
