"""The events of changes: what they do to paths, as those who watch the store hear of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from polystore.exceptions import InvalidPathError
from polystore.path_nodes import Directory, Link, Location
from polystore.path_tree import PathTree
from polystore.paths import join
from polystore_ray.controller.entries import Entry
from polystore_ray.wire.messages import Facts, Request

__all__ = ["Happened", "deleted", "events_of", "published"]

Happened = tuple[Any, ...]
"""The fields of a `polystore.Event` without its number."""

Tree = PathTree[Entry]


def events_of(tree: Tree, request: Request) -> list[Happened]:
    """Return the events of a change that is about to be made, should it succeed.

    Those of `publish` and `delete_keys` are known only when they are made.
    """
    describe = _EVENTS.get(request.operation)
    if describe is None:
        return []
    try:
        return list(describe(tree, *request.arguments))
    except InvalidPathError:
        return []  # the change will fail


def published(
    locations: Sequence[Location], facts: Sequence[Facts], moments: Sequence[tuple[int, float]]
) -> Iterator[Happened]:
    """Yield the events of values that are saved at locations of `PathTree.check_put`."""
    made: set[tuple[str, ...]] = set()
    for (names, _, node, missing), (size, *_), (version, _) in zip(
        locations, facts, moments, strict=True
    ):
        if missing:
            yield from _made(names[:-1], len(missing), made)
        kind = "created" if node is None else "replaced"
        yield kind, join(names), "file", False, version, size


def deleted(tree: Tree, path: str) -> Iterator[Happened]:
    """Yield the event of the deletion of what is at a path."""
    location = tree.reached(path, follow=False)
    if location is not None and location.node is not None:
        is_tree = isinstance(location.node, Directory) and bool(location.node)
        yield "deleted", join(location.names), _type(location.node), is_tree


def _made(names: tuple[str, ...], missing: int, made: set[tuple[str, ...]]) -> Iterator[Happened]:
    """Yield the events of the last directories of a path, unless they are made already."""
    for depth in range(len(names) - missing + 1, len(names) + 1):
        directory = names[:depth]
        if directory not in made:
            made.add(directory)
            yield "created", join(directory), "directory"


def _ensure_directory(tree: Tree, path: str) -> Iterator[Happened]:
    location = tree.reached(path)
    if location is not None and location.node is None:
        yield from _made(location.names, len(location.missing) + 1, set())


def _create_symlink(tree: Tree, source: str, link: str, *_overwrite: bool) -> Iterator[Happened]:
    location = tree.reached(link, follow=False)
    if location is not None:
        kind = "created" if location.node is None else "replaced"
        yield kind, join(location.names), "symlink", tree.is_dir(source)


def _copy(tree: Tree, source: str, destination: str) -> Iterator[Happened]:
    origin, location = tree.reached(source, follow=False), tree.reached(destination, follow=False)
    if origin is not None and location is not None:
        yield "created", join(location.names), *_details(origin.node)


def _snapshot(tree: Tree, _source: str, destination: str) -> Iterator[Happened]:
    location = tree.reached(destination, follow=False)
    if location is not None:
        yield "created", join(location.names), "directory", True


def _move(tree: Tree, source: str, destination: str) -> Iterator[Happened]:
    origin = tree.reached(source, follow=False)
    for _, path, *details in _copy(tree, source, destination):
        if origin is not None:
            missing = [None] * (4 - len(details))
            yield "moved", path, *details, *missing, join(origin.names)


def _done(tree: Tree, path: str, _number: int, destination: str | None) -> Iterator[Happened]:
    return deleted(tree, path) if destination is None else _move(tree, path, destination)


def _graft(
    tree: Tree,
    staging: str,
    _files: int,
    directories: Sequence[str],
    copies: Sequence[tuple[str, str]],
    links: Sequence[tuple[str, str]],
) -> Iterator[Happened]:
    origin = tree.reached(staging)
    present = origin.node if origin is not None and isinstance(origin.node, Directory) else {}
    added = [*directories, *(path for _, path in copies), *(path for path, _ in links)]
    for name in dict.fromkeys([*present, *(path.split("/")[1] for path in added)]):
        details = _details(present[name]) if name in present else ("directory", True)
        yield "created", f"/{name}", *details


def _details(node: Any) -> Happened:
    if isinstance(node, Directory):
        return "directory", True
    if isinstance(node, Link):
        return "symlink", True  # it may lead to a directory
    return ("file", False) if node is None else ("file", False, node.version, node.facts[0])


def _type(node: Any) -> str:
    return str(_details(node)[0])


_EVENTS: Mapping[str, Callable[..., Iterator[Happened]]] = {
    "copy": _copy,
    "create_symlink": _create_symlink,
    "delete": deleted,
    "delete_all": deleted,
    "done": _done,
    "ensure_directory": _ensure_directory,
    "graft": _graft,
    "move": _move,
    "snapshot": _snapshot,
}
