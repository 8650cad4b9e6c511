"""The controller's ledger: what the entries of the tree refer to, how much it is, and its upkeep.

Small values lie in the controller itself, *inline*, as many as it may hold; beyond that the oldest
are packed into objects. Every other value is, or is part of, an object that a volume pins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from polystore.exceptions import StorageFullError
from polystore_ray.messages import WHOLE, Facts, InlineFullError, Items, Pin

__all__ = ["Adopt", "Chore", "Entry", "Held", "Ledger", "PackInline", "PinAgain"]

INLINE_MOST = 256 * 2**20
"""Bytes of inline values beyond which the oldest are packed; at twice as many, saves do."""

_PACK = 8 * 2**20  # bytes in a pack that is made of inline values
_ENTRY_COST = 200  # bytes that an inline value costs beside its own, so that tiny ones count too


class Held:
    """An object that entries refer to, as the ledger knows it."""

    __slots__ = ("dropped", "live", "lost", "packed", "pin")

    def __init__(self, pin: Pin) -> None:
        self.pin = pin
        self.live = 0
        self.packed = 0  # how many values were in the pack when it was last written
        self.dropped: list[int] = []
        self.lost = ""


class Entry:
    """A value of the tree: what describes it, and its bytes or the object that holds it."""

    __slots__ = ("facts", "held", "moment", "number", "uses")

    def __init__(
        self, facts: Facts, moment: tuple[int, float], held: bytes | Held, number: int
    ) -> None:
        self.facts = facts
        self.moment = moment
        self.held: bytes | Held | None = held
        self.number = number  # in a pack; of an inline value, its place in the order of their age
        self.uses = 1  # paths that lead to it

    @property
    def version(self) -> int:
        return self.moment[0]

    def describe(self) -> dict[str, Any]:
        size, shape, dtype = self.facts
        version, modified = self.moment
        facts: dict[str, Any] = {"size": size, "modified": modified, "version": version}
        if shape is not None:
            facts |= {"shape": shape, "dtype": dtype}
        return facts


@dataclass(frozen=True, slots=True)
class PackInline:
    """Have these messages packed into an object; `serials` tell the ledger whose they are."""

    serials: list[int]
    messages: list[bytes]


@dataclass(frozen=True, slots=True)
class Adopt:
    """Have an object put again without the values of its pack that nobody needs."""

    pin: Pin
    dropped: list[int]


@dataclass(frozen=True, slots=True)
class PinAgain:
    """Have objects pinned whose volume, on this node, was lost, where their owners still live."""

    node: str
    pins: list[Pin]


Chore = PackInline | Adopt | PinAgain


class Ledger:
    """Count what entries refer to. It is not thread-safe; the controller holds its lock.

    Parameters
    ----------
    max_bytes : int, optional
        What all values of the store may take together.
    inline_most : int, optional
        Bytes of inline values beyond which the oldest are packed.
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
        self._unpinned: dict[str, str] = {}  # the ids of pins, and where they were

    # Entries come and go

    def admit(self, new: Iterable[Facts], replaced: Iterable[Entry], *, inline: bool) -> None:
        """Raise if values would take the store beyond what it may hold.

        Raises
        ------
        StorageFullError
            Beyond `max_bytes`.
        InlineFullError
            If they are inline, and packing cannot keep up.
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
                f"{wanted} more do not fit; delete values, or make the store with a larger "
                f"max_bytes",
                backend="memory",
            )

    def enter(self, pins: Sequence[Pin], items: Items, moment: tuple[int, float]) -> list[Entry]:
        """Return the entries of published values, from now on counted."""
        held = [self.held.setdefault(pin.id, Held(pin)) for pin in pins]
        entries: list[Entry] = []
        self.files += len(items.facts)
        self.nbytes += sum(facts[0] for facts in items.facts)
        for facts, stored in zip(items.facts, items.stored, strict=True):
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
        return entries

    def copied(self, entries: Iterable[Entry]) -> None:
        """Count entries to which one more path leads."""
        for entry in entries:
            entry.uses += 1
            self.files += 1

    def dropped(self, entries: Iterable[Entry]) -> list[Pin]:
        """Count entries to which one path less leads; return the pins that nobody needs now."""
        free: list[Pin] = []
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
                free.append(held.pin)
        if len(self._inline) > 2 * self.inline_values + 1000:
            self._inline = deque(entry for entry in self._inline if entry.held is not None)
        return free

    def _without(self, held: Held, number: int) -> bool:
        """Count a value of an object as gone; tell whether it was the last one."""
        held.live -= 1
        if not held.live:
            id_ = held.pin.id
            self.held.pop(id_, None)
            self._half_empty.pop(id_, None)
            self._unpinned.pop(id_, None)
            return True
        if number != WHOLE:
            held.dropped.append(number)
            if 2 * held.live < held.packed:
                self._half_empty[held.pin.id] = held
        return False

    def _count_inline(self, message: bytes, one: int) -> None:
        self.inline_bytes += one * len(message)
        self.inline_values += one

    def _inline_cost(self) -> int:
        return self.inline_bytes + _ENTRY_COST * self.inline_values

    # What happens to objects

    def adopted(self, pin: Pin) -> None:
        """Take the new reference of an object that was put again."""
        held = self.held.get(pin.id)
        if held is None:
            return
        held.pin = pin
        if pin.id in self._half_empty:
            del self._half_empty[pin.id]
            held.packed = held.live

    def packed(self, pin: Pin, serials: list[int]) -> bool:
        """Let inline values lie in a pack from now on; False if none of them is needed any more."""
        numbers = {serial: number for number, serial in enumerate(serials)}
        held = Held(pin)
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
        return held.live > 0

    def volume_lost(self, node: str) -> None:
        """Count what a volume pinned as pinned no more."""
        for held in self.held.values():
            pin = held.pin
            if node in pin.nodes:
                nodes = tuple(other for other in pin.nodes if other != node)
                held.pin = pin._replace(nodes=nodes)
                if not nodes:
                    self._unpinned[pin.id] = node

    def pinned_again(self, node: str, ids: Iterable[str]) -> list[str]:
        """Count objects as pinned by another volume; return those that nobody needs any more."""
        unknown: list[str] = []
        for id_ in ids:
            self._unpinned.pop(id_, None)
            held = self.held.get(id_)
            if held is None:
                unknown.append(id_)
            else:
                pin = held.pin
                held.pin = pin._replace(nodes=(*pin.nodes, node))
        return unknown

    def lost(self, ids: Iterable[str], reason: str) -> None:
        """Remember that objects are gone for good, and why."""
        for id_ in ids:
            if self._unpinned.pop(id_, None) is not None:
                self.held[id_].lost = reason

    # Upkeep

    def due(self) -> bool:
        """Tell whether there is a chore."""
        return bool(self._unpinned or self._half_empty) or self._inline_cost() > self._inline_most

    def chore(self) -> Chore | None:
        """Return what should be done next, as long as there is anything."""
        if self._unpinned:
            node = next(iter(self._unpinned.values()))
            ids = [id_ for id_, where in self._unpinned.items() if where == node]
            return PinAgain(node, [self.held[id_].pin for id_ in ids])
        if self._inline_cost() > self._inline_most:
            return self._oldest_inline()
        for held in self._half_empty.values():
            return Adopt(held.pin, list(held.dropped))
        return None

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
