"""Traversals of a backend's tree, built on its questions and its `list_dir` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Protocol

from polystore.arguments import path_exists
from polystore.capabilities import HasDirectories
from polystore.exceptions import InvalidPathError, PathNotFoundError
from polystore.paths import P

__all__ = ["check_copy", "check_parent", "children", "copy_tree", "files_below", "walk_tree"]


class Tree(Protocol):
    """The methods of a backend that a traversal needs."""

    def is_file(self, path: P, /) -> bool: ...
    def is_dir(self, path: P, /) -> bool: ...
    def is_symlink(self, path: P, /) -> bool: ...
    def list_dir(self, path: P, /) -> list[str]: ...


def children(tree: Tree, directory: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the name of everything in a directory."""
    prefix = directory.rstrip("/")
    return ((f"{prefix}/{name}", name) for name in tree.list_dir(directory))


def files_below(tree: Tree, top: str, selected: Any, *, recursive: bool) -> list[str]:
    """Return the files with a selected name in a directory, and below it where `recursive`."""
    found: list[str] = []
    waiting = [top]
    while waiting:
        for child, name in children(tree, waiting.pop()):
            if tree.is_dir(child):
                if recursive and not tree.is_symlink(child):
                    waiting.append(child)
            elif selected(name) and tree.is_file(child):
                found.append(child)
    return found


def walk_tree(
    tree: Tree, top: str, recursive: bool, known_files: Collection[str] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Return directories, files and others, as `DataSource.walk` does.

    - `known_files`: paths of which the backend need not be asked what they are
    """
    top = top.rstrip("/") or "/"
    directories, waiting = [top], [top]
    files: list[str] = []
    others: list[str] = []
    while waiting:
        for child, _ in children(tree, waiting.pop()):
            if child in known_files:
                files.append(child)
            elif tree.is_dir(child):
                directories.append(child)
                if recursive and not tree.is_symlink(child):
                    waiting.append(child)
            else:
                (files if tree.is_file(child) else others).append(child)
    return directories, files, others


def check_parent(backend: Any, path: str) -> None:
    """Refuse a path whose parent is missing, in a backend with directories."""
    parent = path.rstrip("/").rpartition("/")[0]
    if parent and issubclass(type(backend), HasDirectories) and not backend.exists(parent):
        message = "the parent directory is missing"
        raise PathNotFoundError(message, path=path, backend=backend._backend_type)  # noqa: SLF001 - its key


def check_copy(backend: Any, source: str, destination: str) -> None:
    """Raise the errors of `StorageBackend.copy` before anything is copied."""
    key = backend._backend_type  # noqa: SLF001 - as above
    if not backend.exists(source) and not backend.is_symlink(source):
        raise PathNotFoundError("no such file or directory", path=source, backend=key)
    if backend.exists(destination) or backend.is_symlink(destination):
        raise path_exists(destination, key)
    check_parent(backend, destination)
    if destination.startswith(source.rstrip("/") + "/") and not backend.is_symlink(source):
        message = f"a directory cannot go into itself ({source!r})"
        raise InvalidPathError(message, path=destination, backend=key)


def copy_tree(backend: Any, source: str, destination: str) -> None:
    """Copy a file, a tree, or a link as a link, within a backend.

    Where it does not create directories, they appear with their files.
    """
    has_directories = isinstance(backend, HasDirectories)
    waiting = [(source, destination)]
    while waiting:
        old, new = waiting.pop()
        if backend.is_symlink(old):
            backend.create_symlink(backend.stat(old)["target"], new)
        elif backend.is_dir(old):
            below = list(children(backend, old))
            if has_directories or not below:
                backend.ensure_directory(new)
            place = new.rstrip("/")
            waiting += [(child, f"{place}/{name}") for child, name in below]
        else:
            backend.save(backend.load(old), new)
