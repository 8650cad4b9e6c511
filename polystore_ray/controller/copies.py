"""Copies: which nodes hold which objects, and which objects need more copies, or are lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from polystore_ray.controller.entries import Held
from polystore_ray.wire.messages import Loss, Pin

__all__ = ["Copies", "Replicate"]

_REPAIR_BYTES = 64 * 2**20  # about as much as one repair replicates, so that reads go on
_REPAIR_OBJECTS = 1000  # that one repair replicates at most


class Replicate(NamedTuple):
    """Have objects pinned on one more node, as far as they can still be had; `lost` there, once."""

    pins: list[Pin]
    lost: str


class Copies:
    """The objects that hold values, and their copies on nodes. It is not thread-safe."""

    def __init__(self) -> None:
        self.objects: dict[str, Held] = {}
        self._too_few: dict[str, Held] = {}
        self._lost: dict[str, Held] = {}
        self._gone: dict[str, str] = {}  # objects without a copy, and where the last one was
        self._nodes: set[str] = set()
        self._leaving: set[str] = set()
        self._is_hopeless = False  # since each node has a copy of all that has too few

    def forget(self, id_: str) -> None:
        """Forget an object that no value needs."""
        for by_id in (self.objects, self._too_few, self._lost, self._gone):
            by_id.pop(id_, None)

    # What happens to copies

    def volume_lost(self, node: str) -> None:
        """Count what a volume held as held there no more."""
        for held in self.objects.values():
            if node in held.copies:
                del held.copies[node]
                owned = [ref for ref in held.copies.values() if ref is not None]
                held.ref = owned[0] if owned else held.ref
                self.count(held, node)

    def pinned(self, node: str, ids: Iterable[str]) -> list[str]:
        """Count objects as pinned on one more node; return those that no entry needs."""
        unknown: list[str] = []
        for id_ in ids:
            held = self.objects.get(id_)
            if held is None:
                unknown.append(id_)
            else:
                held.copies.setdefault(node)
                self.count(held)
        return unknown

    def count(self, held: Held, lost: str = "") -> None:
        """Remember an object that has fewer copies than it should, and could have more.

        Where it has none, `lost` is the node of the last one.
        """
        self._gone.pop(held.id, None)
        self._too_few.pop(held.id, None)
        if held.copies:
            held.lost = None  # it has turned up
            self._lost.pop(held.id, None)
        if held.lost or len(held.copies.keys() - self._leaving) >= held.wanted:
            return
        if held.copies:
            self._too_few[held.id] = held
            self._is_hopeless = False
        else:
            self._gone[held.id] = lost

    def lost(self, ids: Iterable[str], loss: Loss) -> tuple[int, int]:
        """Remember that objects are gone for good; return how many values and bytes they held."""
        values = nbytes = 0
        for id_ in ids:
            held = self.objects.get(id_)
            if held is not None and not held.copies:
                held.lost = loss
                self._lost[id_] = held
                self._gone.pop(id_, None)
                values += held.live
                nbytes += held.nbytes
        return values, nbytes

    def recover(self, holdings: dict[str, list[Pin]]) -> None:
        """Count as copies just what volumes say they hold."""
        for held in self.objects.values():
            held.copies, held.ref = {}, None
        for node, pins in holdings.items():
            for pin in pins:
                held_ = self.objects.get(pin.id)
                if held_ is None:
                    continue  # it may be about to be published
                owned = pin.nodes == (node,)  # a pinned one has no nodes, but the saver's reference
                held_.copies[node] = pin.ref if owned else None
                held_.ref = pin.ref if owned or held_.ref is None else held_.ref
                held_.nbytes = pin.nbytes
        for held in self.objects.values():
            self.count(held)

    def lost_values(self) -> int:
        """Return how many values are lost."""
        return sum(held.live for held in self._lost.values())

    def objects_with_too_few(self) -> int:
        """Return how many objects could have more copies than they have."""
        return len(self._too_few)

    # Upkeep

    def nodes_changed(self, nodes: set[str], leaving: set[str]) -> None:
        """Learn which nodes there are, and which of them do not count, since they will leave."""
        if nodes == self._nodes and leaving == self._leaving:
            return
        self._nodes, self._leaving = nodes, leaving
        self._is_hopeless = False
        for held in self.objects.values():
            if leaving & held.copies.keys() or held.id in self._too_few:
                self.count(held)

    @property
    def has_one_node(self) -> bool:
        """Whether there is no second node, for replicas of anything."""
        return len(self._nodes) == 1

    def held_alone_by(self, node: str) -> int:
        """Return how many objects only this node holds."""
        return sum(1 for held in self.objects.values() if held.copies.keys() == {node})

    @property
    def are_due(self) -> bool:
        """Whether an object may have to be copied."""
        return bool(self._gone) or (bool(self._too_few) and not self._is_hopeless)

    def last_chance(self) -> Iterator[Replicate]:
        """Yield the repair of objects that have lost their last copy, if there are any."""
        if self._gone:
            yield self._gone_with_one_node()

    def one_more(self) -> Iterator[Replicate]:
        """Yield the repair of objects that have too few copies, if they can have more."""
        if self._too_few and not self._is_hopeless:
            pins = self._pins_to_copy()
            if pins:
                yield Replicate(pins, "")
            else:
                self._is_hopeless = True

    def _gone_with_one_node(self) -> Replicate:
        """Return the repair of objects whose last copy was on one node, as many as it copies."""
        node = next(iter(self._gone.values()))
        pins = _first((self.objects[id_] for id_, where in self._gone.items() if where == node))
        for pin in pins:
            self._gone[pin.id] = self._gone.pop(pin.id)  # others have their turn before it again
        return Replicate(pins, node)

    def _pins_to_copy(self) -> list[Pin]:
        """Return objects that could have one copy more, as many as one repair copies."""
        free = self._nodes - self._leaving
        return _first(held for held in self._too_few.values() if free - held.copies.keys())


def _first(objects: Iterable[Held]) -> list[Pin]:
    """Return the pins of the first objects, as many as one repair copies."""
    pins: list[Pin] = []
    size = 0
    for held in objects:
        pins.append(held.pin())
        size += held.nbytes
        if size > _REPAIR_BYTES or len(pins) == _REPAIR_OBJECTS:
            break
    return pins
