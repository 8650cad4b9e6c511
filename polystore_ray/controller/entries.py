"""What the tree of the cluster memory leads to: entries, and the objects that hold their values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from polystore.path_tree import PathTree
from polystore.stat import Details
from polystore_ray.errors import DataEvictedError, DataLostError
from polystore_ray.wire.messages import Facts, Loss, Pin, Recipe

__all__ = ["Entry", "Held", "entry_at", "freed_by", "lacking_error", "lost_among", "version_at"]


class Held:
    """An object that entries refer to, with its copies by node.

    A copy is None while its volume pins it, and the reference once its volume owns it.
    """

    __slots__ = ("copies", "dropped", "id", "live", "lost", "nbytes", "packed", "ref", "wanted")

    def __init__(self, pin: Pin, wanted: int) -> None:
        self.id = pin.id
        self.nbytes = pin.nbytes
        self.ref = pin.ref  # the saver's, or that of the copy that was put again last
        self.copies: dict[str, Any] = dict.fromkeys(pin.nodes)
        self.wanted = wanted
        self.live = 0
        self.packed = 0  # how many values were in the pack when it was last written
        self.dropped: list[int] = []
        self.lost: Loss | None = None

    def pin(self, node: str = "") -> Pin:
        """Return the object as it is best read on a node."""
        ref = self.copies.get(node)
        nodes = tuple(self.copies)
        if node in self.copies:
            nodes = (node, *(other for other in nodes if other != node))
        return Pin(self.id, nodes, self.ref if ref is None else ref, self.nbytes)

    def __getstate__(self) -> dict[str, Any]:
        # References are not replicated: the volumes that hold the objects report them.
        state = {name: getattr(self, name) for name in self.__slots__}
        return state | {"ref": None, "copies": dict.fromkeys(self.copies)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Entry:
    """A value of the tree: what describes it, and its bytes or the object that holds it."""

    __slots__ = (
        *("evictable", "facts", "fallback", "held", "is_pinned", "modified", "number", "recipe"),
        *("until", "uses", "version", "wanted"),
    )

    def __init__(
        self, facts: Facts, moment: tuple[int, float], held: bytes | Held | None, number: int
    ) -> None:
        self.facts = facts
        self.version, self.modified = moment  # of two values, the versions differ
        self.held = held
        self.number = number  # in a pack; of an inline value, its place in the order of their age
        self.uses = 1  # paths that lead to it
        self.fallback: tuple[str, str] | None = None  # a backend and a path with the same value
        self.until: float | None = None  # in seconds since the epoch
        self.evictable = 0  # its number among those that may be evicted
        self.is_pinned = False
        self.recipe: Recipe | None = None
        self.wanted: int | None = None  # on how many nodes it was to be held, once it is evicted

    def __reduce__(self) -> tuple[Any, ...]:
        made = (self.facts, self.moment, self.held, self.number)
        settings = self.fallback, self.until, self.evictable, self.is_pinned, self.recipe
        return Entry, made, (self.uses, *settings, self.wanted)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.uses, self.fallback, self.until, *others = state
        self.evictable, self.is_pinned, self.recipe, self.wanted = others

    @property
    def is_lacking(self) -> bool:
        """Whether its bytes are lost or evicted."""
        return self.held is None or (isinstance(self.held, Held) and self.held.lost is not None)

    @property
    def replicas(self) -> int | None:
        """On how many nodes it is to be held; None for the default of the store."""
        return self.held.wanted if isinstance(self.held, Held) else self.wanted

    @property
    def moment(self) -> tuple[int, float]:
        return self.version, self.modified

    def describe(self) -> Details:
        size, shape, dtype = self.facts
        details: Details = {"size": size, "modified": self.modified, "version": self.version}
        if shape is not None and dtype is not None:
            details |= {"shape": shape, "dtype": dtype}
        if self.until is not None:
            details["expires"] = self.until
        if self.evictable:
            details |= {"evictable": True, "evicted": self.held is None}
            details["pinned"] = self.is_pinned
        if isinstance(self.held, Held):
            details["replicas"] = len(self.held.copies)
            if self.held.lost is not None:
                details["lost"] = str(self.held.lost)
        return details


def entry_at(tree: PathTree[Entry], path: str) -> Entry | None:
    """Return the value that a path leads to, None if there is none."""
    location = tree.reached(path)
    node = None if location is None else location.node
    return node if isinstance(node, Entry) else None


def version_at(tree: PathTree[Entry], path: str) -> int:
    """Return the version of the value at a path, a link not followed; 0 if there is none."""
    location = tree.reached(path, follow=False)
    node = None if location is None else location.node
    return node.version if isinstance(node, Entry) else 0


def freed_by(replaced: Iterable[Entry]) -> set[Entry]:
    """Return the values whose bytes are free once values are replaced; a copy needs them still."""
    return {entry for entry in replaced if entry.uses == 1 and entry.held is not None}


def lost_among(entries: Iterable[Entry | None]) -> set[Entry]:
    """Return the values that are lost, whose bytes count still; those of evicted ones do not."""
    return {entry for entry in entries if entry is not None and entry.held is not None}


def lacking_error(entry: Entry, path: str) -> DataLostError:
    """Return the error of whoever asks for a value whose bytes are lost or evicted."""
    error: DataLostError
    if isinstance(entry.held, Held):
        error = DataLostError(
            f"{entry.held.lost}. Save the value again; replicas=2 or fallback= keeps a second copy "
            f"of it",
            path=path,
            backend="memory",
        )
    else:
        error = DataEvictedError(
            "the value was evicted when others needed the room, as the one used longest ago. Save "
            "it again; fallback= or recipe= brings it back, pin() keeps it, and a larger max_bytes "
            "evicts less",
            path=path,
            backend="memory",
        )
    error.replicas = entry.replicas
    error.fallback = entry.fallback
    error.version = entry.version
    return error
