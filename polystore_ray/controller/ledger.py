"""The controller's ledger: the sizes and objects of all entries, and the repairs that are due.

Small values are kept in the controller itself, *inline*, up to a limit; beyond it the oldest are
packed into objects. Every other value is, or is part of, an object that volumes hold, on as many
nodes as it has replicas.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from polystore.exceptions import StorageFullError
from polystore_ray.config.store import StoreOptions
from polystore_ray.controller.copies import Copies, Replicate
from polystore_ray.controller.entries import Entry, Held
from polystore_ray.controller.eviction import Evictables
from polystore_ray.wire.messages import WHOLE, Facts, InlineFullError, Items, Pin, Stored

__all__ = ["Adopt", "Ledger", "PackInline", "Repair"]

INLINE_MOST = 256 * 2**20
"""Bytes of inline values beyond which the oldest are packed; at twice as many, saves do."""

_PACK = 8 * 2**20  # bytes in a pack that is made of inline values
_ENTRY_COST = 200  # bytes that an inline value costs in addition to its own


class PackInline(NamedTuple):
    """Have these messages packed into an object; `serials` tell the ledger whose they are."""

    serials: list[int]
    messages: list[bytes]


class Adopt(NamedTuple):
    """Have an object put again without the values of its pack that are dropped."""

    pin: Pin
    dropped: list[int]


Repair = PackInline | Adopt | Replicate


class Ledger:
    """Count what entries refer to. It is not thread-safe; the controller holds its lock.

    - `max_bytes`: what all values of the store may take together
    - `inline_most`: bytes of inline values beyond which the oldest are packed
    - `evicts`: whether values are evicted where others need the room
    """

    def __init__(
        self,
        max_bytes: int | None = None,
        inline_most: int = INLINE_MOST,
        evicts: bool = False,
    ) -> None:
        self.max_bytes = max_bytes
        self.evictables = Evictables()
        self.evictions = 0
        self._evicts = evicts
        self.files = 0
        self.nbytes = 0
        self.inline_bytes = 0
        self.inline_values = 0
        self.copies = Copies()
        self._inline_most = inline_most
        self._inline: deque[Entry] = deque()
        self._serial = 0
        self._half_empty: dict[str, Held] = {}

    @classmethod
    def of(cls, options: StoreOptions) -> Ledger:
        """Return the ledger of a store that is made with some options."""
        return cls(options.max_bytes, evicts=options.eviction is not None)

    # Entries come and go

    def admit(self, new: Iterable[Facts], freed: Collection[Entry], *, inline: bool) -> None:
        """Raise if values would take the store beyond what it may hold.

        - `freed`: values whose bytes go when these come

        Raises `StorageFullError` beyond `max_bytes`; `InlineFullError` if they are inline, and
        packing cannot keep up.
        """
        if inline and self._inline_cost() > 2 * self._inline_most:
            raise InlineFullError
        lacking = self._lacking(new, freed)
        if lacking > 0:
            room = "delete values, or use a store with a larger max_bytes"
            if self._evicts:
                room = f"what may be evicted takes less; {room}, or save more with evictable=True"
            raise StorageFullError(
                f"the store holds {self.nbytes} of at most {self.max_bytes} bytes, and the new "
                f"values need {lacking} more than there is room for; {room}",
                backend="memory",
            )

    def _lacking(self, new: Iterable[Facts], freed: Collection[Entry]) -> int:
        """Return how many bytes have no room, at least 0."""
        wanted = sum(size for size, _, _ in new)
        if self.max_bytes is None or not wanted:
            return 0
        given_back = sum(entry.facts[0] for entry in freed)
        return max(0, self.nbytes + wanted - given_back - self.max_bytes)

    def to_evict(self, new: Iterable[Facts], freed: Collection[Entry]) -> list[int]:
        """Return the numbers of what has to be evicted before values can come; see `admit`."""
        lacking = self._lacking(new, freed) if self._evicts else 0
        return self.evictables.for_room(lacking, freed) if lacking else []

    def evict(self, numbers: list[int]) -> list[Held]:
        """Let go of the bytes of values; return the objects that none needs."""
        free: list[Held] = []
        for entry in self.evictables.entries(numbers):
            self.evictables.discard(entry)
            self.evictions += 1
            entry.wanted = entry.replicas
            free += self._let_go(entry)
        return free

    def set_pinned(self, entry: Entry, is_pinned: bool) -> None:
        """Keep a value from being evicted, or let it be again."""
        entry.is_pinned = is_pinned
        self.evictables.discard(entry)
        self.evictables.add(entry)

    def enter(
        self, pins: Sequence[Pin], items: Items, moments: Iterable[tuple[int, float]]
    ) -> list[Entry]:
        """Return the entries of published values, from now on counted."""
        held = [self.copies.objects.setdefault(pin.id, Held(pin, items.replicas)) for pin in pins]
        entries: list[Entry] = []
        self.files += len(items.facts)
        for facts, stored, moment in zip(items.facts, items.stored, moments, strict=True):
            entry = Entry(facts, moment, None, 0)
            self._hold(entry, stored, held)
            entries.append(entry)
        for object_ in held:
            self.copies.count(object_)
        if items.fallback is not None:
            for entry in entries:
                entry.fallback = items.fallback
        for entry, recipe in zip(entries, items.recipes, strict=False):
            entry.recipe = recipe
        if items.evictable:
            self.evictables.begin(entries)
        return entries

    def _hold(self, entry: Entry, stored: Stored, held: Sequence[Held]) -> None:
        """Let a value lie in one of some objects, or here."""
        self.nbytes += entry.facts[0]
        if isinstance(stored, bytes):
            self._serial += 1
            entry.held, entry.number = stored, self._serial
            self._inline.append(entry)
            self._count_inline(stored, 1)
        else:
            which, number = stored
            entry.held, entry.number = held[which], number
            held[which].live += 1
            held[which].packed += number != WHOLE

    def refill(
        self, pins: Sequence[Pin], items: Items, entries: Sequence[Entry | None]
    ) -> list[Held]:
        """Give values that lack them bytes, in objects; return the objects that none needs.

        None stands for a value that does not need what is brought.
        """
        free: list[Held] = []
        held = [self.copies.objects.setdefault(pin.id, Held(pin, items.replicas)) for pin in pins]
        for entry, facts, stored in zip(entries, items.facts, items.stored, strict=True):
            if entry is not None:
                free += self._let_go(entry)
                entry.facts = facts
                self._hold(entry, stored, held)
                self.evictables.add(entry)
        for object_ in held:
            if object_.live:
                self.copies.count(object_)
            else:
                free.append(object_)
                self.copies.forget(object_.id)
        return free

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
            if not entry.uses:
                self.evictables.discard(entry)
                free += self._let_go(entry)
        if len(self._inline) > 2 * self.inline_values + 1000:
            self._inline = deque(entry for entry in self._inline if isinstance(entry.held, bytes))
        return free

    def _let_go(self, entry: Entry) -> list[Held]:
        """Count the bytes of a value as gone; return the object that nothing needs any more."""
        held, entry.held = entry.held, None
        if held is None:
            return []
        self.nbytes -= entry.facts[0]
        if isinstance(held, bytes):
            self._count_inline(held, -1)
            return []
        return [held] if self._without(held, entry.number) else []

    def _without(self, held: Held, number: int) -> bool:
        """Count a value of an object as gone; return whether it was the last one."""
        held.live -= 1
        if not held.live:
            self.copies.forget(held.id)
            self._half_empty.pop(held.id, None)
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
        held = self.copies.objects.get(pin.id)
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
        # What was evicted, and may lie in an object since, is not inline any more.
        while self._inline and (
            not isinstance(self._inline[0].held, bytes) or self._inline[0].number <= serials[-1]
        ):
            entry = self._inline.popleft()
            if isinstance(entry.held, bytes):
                self._count_inline(entry.held, -1)
                entry.held, entry.number = held, numbers[entry.number]
                dropped.discard(entry.number)
        held.live = len(serials) - len(dropped)
        held.dropped = sorted(dropped)
        if held.live:
            self.copies.objects[pin.id] = held
            self.copies.count(held)
        return held

    def status(self) -> dict[str, Any]:
        """Return what is counted."""
        return {
            "files": self.files,
            "bytes": self.nbytes,
            "inline_bytes": self.inline_bytes,
            "inline_values": self.inline_values,
            "objects": len(self.copies.objects),
            "too_few_replicas": self.copies.objects_with_too_few(),
            "lost": self.copies.lost_values(),
            "evictions": self.evictions,
        }

    # Upkeep

    def due(self) -> bool:
        """Return whether there may be a repair."""
        is_full = self._inline_cost() > self._inline_most
        return is_full or bool(self._half_empty) or self.copies.are_due

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
        yield from self.copies.last_chance()
        if self._inline_cost() > self._inline_most:
            yield self._oldest_inline()
        yield from self.copies.one_more()
        for held in islice(self._half_empty.values(), 1):
            yield Adopt(held.pin(), list(held.dropped))

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
