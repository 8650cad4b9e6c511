"""The questions about the tree that need more than the tree: each reads the state of a store."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from polystore.exceptions import PathNotFoundError, PathTypeError, StorageError
from polystore.path_tree import replaced
from polystore.paths import join, normalize
from polystore_ray.controller.entries import (
    Entry,
    Held,
    entry_at,
    freed_by,
    lacking_error,
    lost_among,
)
from polystore_ray.controller.replicated import ReplicatedState
from polystore_ray.errors import RecipeError
from polystore_ray.wire.messages import NOTHING, Found, Items, Kept, Lacking, Pin, Stored

__all__ = ["check", "kept", "lacking", "nodes", "places", "read", "to_evict", "versions", "why"]


def read(state: ReplicatedState, paths: list[str], node: str = "", existing: bool = False) -> Found:
    """Return what is stored at each path, in the form that a reader on `node` should use.

    With `existing`, a path without a file is `NOTHING` in the answer instead of an error.
    """
    which: dict[str, int] = {}
    pins: list[Pin] = []
    stored: list[Stored] = []
    moments: list[int] = []
    for path in paths:
        entry = _file(state, path) if existing else state.tree.get(path)
        if entry is None:
            stored.append(NOTHING)
            moments.append(0)
            continue
        held = entry.held
        moments.append(entry.version)
        if isinstance(held, Held):
            if held.id not in which:
                if held.lost is not None:
                    raise lacking_error(entry, path)
                which[held.id] = len(pins)
                pins.append(held.pin(node))
            stored.append((which[held.id], entry.number))
        elif held is not None:
            stored.append(held)
        else:
            raise lacking_error(entry, path)
        if entry.evictable:
            state.ledger.evictables.used(entry)
    return Found(pins, stored, moments)


def _file(state: ReplicatedState, path: str) -> Entry | None:
    """Return the entry of a file, None where there is no file."""
    with suppress(PathNotFoundError, PathTypeError):
        return state.tree.get(path)
    return None


def nodes(state: ReplicatedState, paths: list[str]) -> list[tuple[str, ...]]:
    """Return the nodes that hold the bytes of each value; none if it is inline, or lacks them."""
    held = [state.tree.get(path).held for path in paths]
    return [tuple(each.copies) if isinstance(each, Held) else () for each in held]


def versions(state: ReplicatedState, paths: list[str]) -> list[int]:
    """Return the versions of the values at paths, all of one moment; 0 where there is none."""
    found = [entry_at(state.tree, path) for path in paths]
    return [0 if entry is None else entry.version for entry in found]


def kept(state: ReplicatedState, path: str) -> Kept:
    """Return the settings of a value that stay when another value replaces it."""
    entry = state.tree.get(path)
    ttl = None if entry.until is None else max(0.0, entry.until - time.time())
    return Kept(entry.version, entry.replicas, entry.fallback, ttl)


def why(state: ReplicatedState, path: str) -> dict[str, Any]:
    """Return where a value is, how it was lost, and what brings it back."""
    entry = state.tree.get(path)
    facts = state.tree.stat(path) | {"fallback": entry.fallback, "recipe": entry.recipe is not None}
    held = entry.held if isinstance(entry.held, Held) else None
    facts |= {"nodes": () if held is None else tuple(held.copies), "wanted": entry.replicas}
    return facts | {"lost": "" if held is None or held.lost is None else str(held.lost)}


def check(state: ReplicatedState, items: Items) -> None:
    """Raise what a publication would raise, before the bytes of its values move."""
    old = replaced(state.locations_for(items))
    state.ledger.admit(items.facts, freed_by(old), inline=False)


def to_evict(state: ReplicatedState, items: Items) -> list[int]:
    """Return what has to be evicted for values to fit; nothing if they cannot be saved anyway."""
    if items.refills:
        needed = state.refilled_by(items)
        facts = [each for each, entry in zip(items.facts, needed, strict=True) if entry is not None]
        return state.ledger.to_evict(facts, lost_among(needed))
    try:
        old: list[Entry] = replaced(state.locations_for(items))
    except StorageError:
        return []
    return state.ledger.to_evict(items.facts, freed_by(old))


def places(state: ReplicatedState, paths: list[str]) -> tuple[list[str], list[bool], int]:
    """Return where paths lead, whether each exists, and the number of the last event.

    Events name what happens by where paths lead.
    """
    found: list[str] = []
    exist: list[bool] = []
    for path in paths:
        location = state.tree.reached(path)
        # A path through a file may lead elsewhere later.
        found.append(normalize(path) if location is None else join(location.names))
        exist.append(location is not None and location.node is not None)
    return found, exist, state.events.last


def lacking(state: ReplicatedState, paths: list[str], has_failed: bool = False) -> list[Lacking]:
    """Return the values at paths that are lost or evicted, and those that their recipes need.

    Each is there once, however many paths lead to it, and after all that its recipe needs. A
    recipe is for a value without a fallback, or at one of the paths, if its fallback `has_failed`.

    Raises `RecipeError` if a recipe needs what is made of it.
    """
    failed = {entry_at(state.tree, path) for path in paths} if has_failed else set()

    def inputs_of(entry: Entry) -> tuple[str, ...] | None:
        if entry.recipe is None or (entry.fallback is not None and entry not in failed):
            return None
        return entry.recipe.inputs

    found: dict[Entry, Lacking] = {}
    above: dict[Entry, str] = {}  # whose inputs are being looked at, from the top down
    stack: list[str | Entry] = [*reversed(paths)]
    while stack:
        top = stack.pop()
        if isinstance(top, Entry):
            path, inputs = above.pop(top), inputs_of(top)
            if inputs is not None:
                needed = [entry_at(state.tree, each) for each in inputs]
                inputs = tuple(found[each].path for each in needed if each and each in found)
            facts = top.version, top.facts[0], top.replicas, top.fallback
            found[top] = Lacking(path, *facts, inputs)
            continue
        entry = entry_at(state.tree, top)
        if entry is None or not entry.is_lacking or entry in found:
            continue
        if entry in above:
            names = [*above.values()]
            raise RecipeError.of_cycle([*names[names.index(above[entry]) :], above[entry]])
        above[entry] = top
        stack.append(entry)
        stack += inputs_of(entry) or ()
    return [*found.values()]
