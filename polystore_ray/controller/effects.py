"""The effects of changes on answers: which answers differ afterwards, and which depend on what.

Answers are kept about values, and about paths where no file is. Nothing here is exact where that
would cost more than it saves: an effect may be taken for larger than it is, and never for smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from polystore.exceptions import InvalidPathError
from polystore.path_nodes import entries_below
from polystore.path_tree import PathTree
from polystore_ray.controller.entries import Entry
from polystore_ray.wire.messages import Items, Pin, Request

__all__ = ["LEASED", "Effect", "Names", "effect_of", "names_read"]

Names = tuple[str, ...]
"""Where a path leads, name by name from the root."""

Tree = PathTree[Entry]


class Effect(NamedTuple):
    """What a change does to the answers to questions about files."""

    entries: list[Entry]
    """The values that leave a path."""
    names: frozenset[Names] | None
    """Where answers differ afterwards; None for anywhere."""
    below: Names | None = None
    """Where there may be files afterwards at and below a path that led to nothing; None for none
    but at `names`."""
    has_links: bool = False
    """Whether links lead elsewhere afterwards."""
    is_everywhere: bool = False
    """Whether so much changes that no answer is kept."""


_NONE = Effect([], frozenset())
_MOVED_TREE = Effect([], None, has_links=True, is_everywhere=True)
_COPIES = Effect([], frozenset(), is_everywhere=True)  # of values, which `stat` counts


def effect_of(tree: Tree, request: Request, *, has_misses: bool) -> Effect | None:
    """Return the effect that a change is about to have, None for none on what is kept.

    - `has_misses`: whether anybody keeps that a file is missing; a change that only makes new files
      has an effect on nothing else
    """
    effect = _EFFECTS.get(request.operation)
    if effect is None or not (has_misses or _replaces(request)):
        return None
    try:
        return effect(tree, *request.arguments)
    except InvalidPathError:
        return None  # the change will fail


def _replaces(request: Request) -> bool:
    """Return whether a change may concern what existed."""
    if request.operation == "publish":
        items: Items = request.arguments[1]
        return items.overwrite or items.if_version is not None or items.refills
    return request.operation not in ("copy", "snapshot")


def _publish(tree: Tree, _pins: list[Pin], items: Items, *_volumes: Any) -> Effect:
    found = [location for path in items.paths if (location := tree.reached(path))]
    old = [location.node for location in found if isinstance(location.node, Entry)]
    return Effect(old, frozenset(location.names for location in found))


def _removed(tree: Tree, path: str) -> Effect | None:
    location = tree.reached(path, follow=False)
    if location is None or location.node is None:
        return None
    if isinstance(location.node, Entry):
        return Effect([location.node], frozenset([location.names]))
    return Effect(list(entries_below(location.node)), None, has_links=True)


def _delete_keys(tree: Tree, paths: list[str], _top: str) -> Effect:
    effects = [effect for path in paths if (effect := _removed(tree, path)) is not None]
    entries = [entry for effect in effects for entry in effect.entries]
    return Effect(entries, None, has_links=any(effect.has_links for effect in effects))


def _set_pinned(tree: Tree, path: str, _is_pinned: bool) -> Effect | None:
    location = tree.reached(path)
    if location is None or not isinstance(location.node, Entry):
        return None
    return Effect([location.node], frozenset([location.names]))


def _expire(tree: Tree, _moment: float, expired: list[tuple[str, int]]) -> Effect:
    return _delete_keys(tree, [path for path, _ in expired], "")


def _move(tree: Tree, source: str, destination: str) -> Effect | None:
    effect, target = _removed(tree, source), tree.reached(destination, follow=False)
    if effect is None or target is None:
        return None
    if effect.names is None:
        return _MOVED_TREE
    return effect._replace(names=effect.names | {target.names})


def _done(tree: Tree, path: str, _number: int, destination: str | None) -> Effect | None:
    return _removed(tree, path) if destination is None else _move(tree, path, destination)


def _create_symlink(tree: Tree, _source: str, link: str, *_overwrite: bool) -> Effect:
    return _appears(tree, link, _removed(tree, link) or _NONE)  # with what it replaces


def _copy(tree: Tree, source: str, destination: str) -> Effect:
    origin, target = (tree.reached(path, follow=False) for path in (source, destination))
    if origin and target and isinstance(origin.node, Entry):
        return Effect([], frozenset([target.names]))
    return _appears(tree, destination)


def _appears(tree: Tree, path: str, also: Effect = _NONE) -> Effect:
    """Return the effect of a directory or a link that comes to be at a path."""
    location = tree.reached(path, follow=False)
    return also if location is None else also._replace(names=None, below=location.names)


_EFFECTS: Mapping[str, Callable[..., Effect | None]] = {
    "copy": _copy,
    "create_symlink": _create_symlink,
    "delete": _removed,
    "delete_all": _removed,
    "delete_keys": _delete_keys,
    "done": _done,
    "expire": _expire,
    "graft": lambda *_: _MOVED_TREE,
    "lost": lambda *_: _COPIES,
    "move": _move,
    "pinned": lambda *_: _COPIES,
    "publish": _publish,
    "set_pinned": _set_pinned,
    "snapshot": lambda tree, _source, destination: _appears(tree, destination),
    "volume_lost": lambda *_: _COPIES,
}

LEASED = frozenset({"exists", "is_file", "read", "stat"})
"""The questions whose answers readers may keep, where they are about files; of a ``read`` also that
no file is there."""

_OF_ONE_PATH = frozenset({"exists", "is_dir", "is_file", "kept", "stat", "why"})
_OF_NO_PATH = frozenset(
    {
        *("adopted", "class_arrived", "confirm", "end_making", "packed", "pins", "renew_making"),
        *("status", "withdraw"),
    }
)


def names_read(tree: Tree, request: Request) -> frozenset[Names] | None:
    """Return where the answer to a request looks; None for anywhere.

    It is asked before the request is carried out.
    """
    operation, arguments = request.operation, request.arguments
    if operation in _OF_NO_PATH:
        return frozenset()
    if operation in _OF_ONE_PATH:
        return _names(tree, arguments[:1])
    if operation in ("nodes", "read", "versions"):
        return _names(tree, arguments[0])
    if operation == "publish":
        return _names(tree, arguments[1].paths)
    return None


def _names(tree: Tree, paths: Iterable[str]) -> frozenset[Names] | None:
    try:
        found = [tree.reached(path) for path in paths]
    except InvalidPathError:
        return None
    if None in found:
        return None
    return frozenset(location.names for location in found if location is not None)
