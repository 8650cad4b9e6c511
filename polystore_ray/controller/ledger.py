"""The controller's ledger: the sizes and objects of all entries, and the repairs that are due.

Small values are kept in the controller itself, *inline*, up to a limit; beyond it the oldest are
packed into objects. Every other value is, or is part of, an object that volumes hold, on as many
nodes as it has replicas.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from polystore.exceptions import StorageFullError
from polystore_ray.controller.entries import Entry, Held
from polystore_ray.wire.messages import WHOLE, Facts, InlineFullError, Items, Loss, Pin

__all__ = ["Adopt", "Ledger", "PackInline", "Repair", "Replicate"]

INLINE_MOST = 256 * 2**20
"""Bytes of inline values beyond which the oldest are packed; at twice as many, saves do."""

_PACK = 8 * 2**20  # bytes in a pack that is made of inline values
_ENTRY_COST = 200  # bytes that an inline value costs in addition to its own
_REPAIR_BYTES = 64 * 2**20  # about as much as one repair replicates, so that reads go on
_REPAIR_OBJECTS = 1000  # that one repair replicates at most


class PackInline(NamedTuple):
    """Have these messages packed into an object; `serials` tell the ledger whose they are."""

    serials: list[int]
    messages: list[bytes]


class Adopt(NamedTuple):
    """Have an object put again without the values of its pack that are dropped."""

    pin: Pin
    dropped: list[int]


class Replicate(NamedTuple):
    """Have objects pinned on one more node, as far as they can still be had; `lost` there, once."""

    pins: list[Pin]
    lost: str


Repair = PackInline | Adopt | Replicate


class Ledger:
    """Count what entries refer to. It is not thread-safe; the controller holds its lock.

    - `max_bytes`: what all values of the store may take together
    - `inline_most`: bytes of inline values beyond which the oldest are packed
    """

    def __init__(self, max_bytes: int | None = None, inline_most: int = INLINE_MOST) -> None:
        self.max_bytes = max_bytes
        self.files = 0
        self.nbytes = 0
        self.inline_bytes = 0
        self.inline_values = 0
        self.held: dict[str, Held] = {}
        self._inline_most = inline_most
        self._inline: deque[Entry] = deque()
        self._serial = 0
        self._half_empty: dict[str, Held] = {}
        self._too_few: dict[str, Held] = {}
        self._lost: dict[str, Held] = {}
        self._gone: dict[str, str] = {}  # objects without a copy, and where the last one was
        self._nodes: set[str] = set()
        self._leaving: set[str] = set()
        self._is_hopeless = False  # since each node has a copy of all that has too few

    # Entries come and go

    def admit(self, new: Iterable[Facts], replaced: Iterable[Entry], *, inline: bool) -> None:
        """Raise if values would take the store beyond what it may hold.

        Raises `StorageFullError` beyond `max_bytes`; `InlineFullError` if they are inline, and
        packing cannot keep up.
        """
        if inline and self._inline_cost() > 2 * self._inline_most:
            raise InlineFullError
        if self.max_bytes is None:
            return
        wanted = sum(size for size, _, _ in new)
        freed = sum(entry.facts[0] for entry in replaced if entry.uses == 1)
        if wanted and self.nbytes + wanted - freed > self.max_bytes:
            raise StorageFullError(
                f"the store holds {self.nbytes} of at most {self.max_bytes} bytes, and "
                f"{wanted} more do not fit; delete values, or use a store with a larger "
                f"max_bytes",
                backend="memory",
            )

    def enter(
        self, pins: Sequence[Pin], items: Items, moments: Iterable[tuple[int, float]]
    ) -> list[Entry]:
        """Return the entries of published values, from now on counted."""
        held = [self.held.setdefault(pin.id, Held(pin, items.replicas)) for pin in pins]
        entries: list[Entry] = []
        self.files += len(items.facts)
        self.nbytes += sum(facts[0] for facts in items.facts)
        for facts, stored, moment in zip(items.facts, items.stored, moments, strict=True):
            if isinstance(stored, bytes):
                self._serial += 1
                entry = Entry(facts, moment, stored, self._serial)
                self._inline.append(entry)
                self._count_inline(stored, 1)
            else:
                which, number = stored
                object_ = held[which]
                entry = Entry(facts, moment, object_, number)
                object_.live += 1
                object_.packed += number != WHOLE
            entries.append(entry)
        for object_ in held:
            self._count_copies(object_)
        if items.fallback is not None:
            for entry in entries:
                entry.fallback = items.fallback
        return entries

    def copied(self, entries: Iterable[Entry]) -> None:
        """Count entries to which one more path leads."""
        for entry in entries:
            entry.uses += 1
            self.files += 1

    def dropped(self, entries: Iterable[Entry]) -> list[Held]:
        """Count entries to which one path less leads; return the objects that none needs."""
        free: list[Held] = []
        for entry in entries:
            self.files -= 1
            entry.uses -= 1
            if entry.uses:
                continue
            self.nbytes -= entry.facts[0]
            held, entry.held = entry.held, None
            if isinstance(held, bytes):
                self._count_inline(held, -1)
            elif held is not None and self._without(held, entry.number):
                free.append(held)
        if len(self._inline) > 2 * self.inline_values + 1000:
            self._inline = deque(entry for entry in self._inline if entry.held is not None)
        return free

    def _without(self, held: Held, number: int) -> bool:
        """Count a value of an object as gone; return whether it was the last one."""
        held.live -= 1
        if not held.live:
            self.held.pop(held.id, None)
            self._half_empty.pop(held.id, None)
            self._too_few.pop(held.id, None)
            self._lost.pop(held.id, None)
            self._gone.pop(held.id, None)
            return True
        if number != WHOLE:
            held.dropped.append(number)
            if 2 * held.live < held.packed:
                self._half_empty[held.id] = held
        return False

    def _count_inline(self, message: bytes, one: int) -> None:
        self.inline_bytes += one * len(message)
        self.inline_values += one

    def _inline_cost(self) -> int:
        return self.inline_bytes + _ENTRY_COST * self.inline_values

    # What happens to objects

    def adopted(self, pin: Pin) -> None:
        """Take the new reference of a copy that was put again."""
        held = self.held.get(pin.id)
        if held is None:
            return
        held.ref, held.nbytes = pin.ref, pin.nbytes
        for node in pin.nodes:
            if node in held.copies:
                held.copies[node] = pin.ref
        if pin.id in self._half_empty:
            del self._half_empty[pin.id]
            held.packed = held.live

    def packed(self, pin: Pin, serials: list[int], replicas: int) -> Held:
        """Let inline values lie in a pack from now on; it may be that none is needed any more."""
        numbers = {serial: number for number, serial in enumerate(serials)}
        held = Held(pin, replicas)
        held.copies[pin.nodes[0]] = pin.ref
        held.packed = len(serials)
        dropped = set(range(len(serials)))
        while self._inline and self._inline[0].number <= serials[-1]:
            entry = self._inline.popleft()
            if isinstance(entry.held, bytes):
                self._count_inline(entry.held, -1)
                entry.held, entry.number = held, numbers[entry.number]
                dropped.discard(entry.number)
        held.live = len(serials) - len(dropped)
        held.dropped = sorted(dropped)
        if held.live:
            self.held[pin.id] = held
            self._count_copies(held)
        return held

    def volume_lost(self, node: str) -> None:
        """Count what a volume held as held there no more."""
        for held in self.held.values():
            if node in held.copies:
                del held.copies[node]
                owned = [ref for ref in held.copies.values() if ref is not None]
                held.ref = owned[0] if owned else held.ref
                self._count_copies(held, node)

    def pinned(self, node: str, ids: Iterable[str]) -> list[str]:
        """Count objects as pinned on one more node; return those that no entry needs."""
        unknown: list[str] = []
        for id_ in ids:
            held = self.held.get(id_)
            if held is None:
                unknown.append(id_)
            else:
                held.copies.setdefault(node)
                self._count_copies(held)
        return unknown

    def _count_copies(self, held: Held, lost: str = "") -> None:
        """Remember objects that have fewer copies than they should, and could have more."""
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
            held = self.held.get(id_)
            if held is not None and not held.copies:
                held.lost = loss
                self._lost[id_] = held
                self._gone.pop(id_, None)
                values += held.live
                nbytes += held.nbytes
        return values, nbytes

    def recover(self, holdings: dict[str, list[Pin]]) -> None:
        """Count as copies just what volumes say they hold."""
        for held in self.held.values():
            held.copies, held.ref = {}, None
        for node, pins in holdings.items():
            for pin in pins:
                held_ = self.held.get(pin.id)
                if held_ is None:
                    continue  # it may be about to be published
                owned = pin.nodes == (node,)  # a pinned one has no nodes, but the saver's reference
                held_.copies[node] = pin.ref if owned else None
                held_.ref = pin.ref if owned or held_.ref is None else held_.ref
                held_.nbytes = pin.nbytes
        for held in self.held.values():
            self._count_copies(held)

    def status(self) -> dict[str, Any]:
        """Return what is counted."""
        return {
            "files": self.files,
            "bytes": self.nbytes,
            "inline_bytes": self.inline_bytes,
            "inline_values": self.inline_values,
            "objects": len(self.held),
            "too_few_replicas": len(self._too_few),
            "lost": sum(held.live for held in self._lost.values()),
        }

    # Upkeep

    def nodes_changed(self, nodes: set[str], leaving: set[str]) -> None:
        """Learn which nodes there are, and which of them do not count, since they will leave."""
        if nodes == self._nodes and leaving == self._leaving:
            return
        self._nodes, self._leaving = nodes, leaving
        self._is_hopeless = False
        for held in self.held.values():
            if leaving & held.copies.keys() or held.id in self._too_few:
                self._count_copies(held)

    @property
    def has_one_node(self) -> bool:
        """Whether there is no second node, for replicas of anything."""
        return len(self._nodes) == 1

    def held_alone_by(self, node: str) -> int:
        """Return how many objects only this node holds."""
        return sum(1 for held in self.held.values() if held.copies.keys() == {node})

    def due(self) -> bool:
        """Return whether there may be a repair."""
        return (
            bool(self._gone or self._half_empty)
            or self._inline_cost() > self._inline_most
            or (bool(self._too_few) and not self._is_hopeless)
        )

    def next_repair(self, failed: int = 0) -> Repair | None:
        """Return what should be done next, as long as there is anything.

        After `failed` repairs that failed in a row, return one of another kind, if there is one.
        """
        due = self._repairs()
        if not failed:
            return next(due, None)
        kinds = list(due)
        return kinds[failed % len(kinds)] if kinds else None

    def _repairs(self) -> Iterator[Repair]:
        """Yield a repair of every kind that is due, the most urgent first."""
        if self._gone:
            yield self._gone_with_one_node()
        if self._inline_cost() > self._inline_most:
            yield self._oldest_inline()
        if self._too_few and not self._is_hopeless:
            pins = self._pins_to_copy()
            if pins:
                yield Replicate(pins, "")
            else:
                self._is_hopeless = True
        for held in islice(self._half_empty.values(), 1):
            yield Adopt(held.pin(), list(held.dropped))

    def _gone_with_one_node(self) -> Replicate:
        """Return the repair of objects whose last copy was on one node, as many as it copies."""
        node = next(iter(self._gone.values()))
        pins = _first((self.held[id_] for id_, where in self._gone.items() if where == node))
        for pin in pins:
            self._gone[pin.id] = self._gone.pop(pin.id)  # others have their turn before it again
        return Replicate(pins, node)

    def _pins_to_copy(self) -> list[Pin]:
        """Return objects that could have one copy more, as many as one repair copies."""
        free = self._nodes - self._leaving
        return _first(held for held in self._too_few.values() if free - held.copies.keys())

    def _oldest_inline(self) -> PackInline:
        serials: list[int] = []
        messages: list[bytes] = []
        size = 0
        for entry in self._inline:
            if isinstance(entry.held, bytes):
                serials.append(entry.number)
                messages.append(entry.held)
                size += len(entry.held) + _ENTRY_COST
                if size > _PACK:
                    break
        return PackInline(serials, messages)


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
