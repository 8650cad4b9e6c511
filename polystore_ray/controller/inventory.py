"""What dumps and operators ask of all entries: the records of values, and the losses."""

from __future__ import annotations

from polystore.path_tree import PathTree
from polystore_ray.controller.copies import Copies
from polystore_ray.controller.entries import Entry, Held
from polystore_ray.wire.messages import Loss, Pin, Record

__all__ = ["losses", "pins", "records"]


def records(tree: PathTree[Entry], paths: list[str]) -> tuple[list[Pin], list[Record]]:
    """Return what a dump needs of the values at some paths, and the objects that hold them."""
    objects: dict[str, Pin] = {}
    which: dict[str, int] = {}
    found: list[Record] = []
    for path in paths:
        entry = tree.get(path)
        held = entry.held
        replicas: int | None = None
        stored: bytes | int | None = None
        if isinstance(held, bytes):
            stored = held
        elif held is not None:
            replicas = held.wanted
            if held.lost is None:
                objects.setdefault(held.id, held.pin())
                stored = which.setdefault(held.id, len(which))
        facts = entry.facts, entry.moment, replicas, entry.fallback, entry.number
        found.append(Record(*facts, stored))
    return list(objects.values()), found


def pins(copies: Copies, ids: list[str], node: str) -> list[Pin]:
    """Return those of some objects that are there, as they are best read on a node."""
    held = [copies.objects[id_] for id_ in ids if id_ in copies.objects]
    return [each.pin(node) for each in held if each.lost is None]


def losses(tree: PathTree[Entry], top: str) -> list[tuple[str, Loss, tuple[str, str] | None]]:
    """Return the lost values at and below a path, each with its loss and its fallback."""
    return [
        (path, entry.held.lost, entry.fallback)
        for path, entry in tree.entries(top)
        if isinstance(entry.held, Held) and entry.held.lost is not None
    ]
