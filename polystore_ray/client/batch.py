"""The values of a batch on their way to the store and back: inline, packed, or one object each.

One value of up to `SMALL` bytes travels inside the call. Of a batch, small values share packs once
they are more than that together, and so do arrays up to a size that the caller chooses. Every other
value is an object of its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from polystore.arguments import seconds, whole_number
from polystore.error_translation import located
from polystore.exceptions import StorageError
from polystore.serialization import Sealed, array_size, is_raw, seal, shape_and_dtype
from polystore_ray.transport.base import Transport
from polystore_ray.wire.envelope import SMALL, array_message, open_message, sealed_message
from polystore_ray.wire.messages import (
    NOTHING,
    WHOLE,
    Facts,
    Found,
    InlineFullError,
    Items,
    Pin,
    Stored,
)
from polystore_ray.wire.pack import Member, Pack

__all__ = ["Sealing", "array_bytes", "opened", "publish"]

_PACK = 16 * 2**20  # bytes in a pack, about

Put = Callable[[Sealed], Pin]
Known = dict[tuple[np.dtype[Any], tuple[int, ...]], Facts]


class Sealing:
    """The sealed values of a batch, before any of their bytes move.

    - `values`, `paths`: the values, and where they are to be stored
    - `step`: called after each value
    - `bundled`: up to how many bytes arrays share objects

    Raises `VFSTypeError` if a value does not pickle, or contains an object of Ray.
    """

    def __init__(
        self,
        values: Sequence[Any],
        paths: Sequence[str],
        step: Callable[[], None] | None = None,
        bundled: int = 0,
    ) -> None:
        self.facts: list[Facts] = []
        self._large: list[tuple[int, Sealed]] = []
        self._middle: list[tuple[int, np.ndarray[Any, Any]]] = []
        self._small: list[tuple[int, Member]] = []
        self._small_bytes = 0
        known: Known = {}
        for i, value in enumerate(values):
            facts = _facts(value, known) if type(value) is np.ndarray else None
            if facts is not None and facts[0] <= SMALL:
                self._small.append((i, value))
                self._small_bytes += facts[0]
            elif facts is not None and facts[0] <= bundled:
                self._middle.append((i, value))
            else:
                with located(paths[i], "memory"):
                    sealed = seal(value)
                facts = facts or (sealed.nbytes, *shape_and_dtype(value))
                self._add(i, sealed)
            self.facts.append(facts)
            if step is not None:
                step()

    def _add(self, i: int, sealed: Sealed) -> None:
        if sealed.nbytes > SMALL:
            self._large.append((i, sealed))
        else:
            self._small.append((i, sealed_message(sealed)))
            self._small_bytes += sealed.nbytes

    @property
    def has_objects(self) -> bool:
        """Whether anything has to be put into the object store."""
        return bool(self._large or self._middle) or self._small_bytes > SMALL

    def put(self, put: Put, items: Items, *, inline: bool = True) -> tuple[list[Pin], Items]:
        """Put the values that need objects; return their pins, and the items with what is stored.

        Without `inline`, small values are packed however few there are.
        """
        stored: list[Stored] = [b""] * len(self.facts)
        pins: list[Pin] = []
        for i, sealed in self._large:
            stored[i] = (len(pins), WHOLE)
            pins.append(put(sealed))
        packed: list[tuple[int, Member]] = [*self._middle]
        if inline and self._small_bytes <= SMALL:
            for i, member in self._small:
                stored[i] = member if isinstance(member, bytes) else array_message(member)
        else:
            packed += self._small
        for part in _parts(packed):
            for number, (i, _) in enumerate(part):
                stored[i] = (len(pins), number)
            pins.append(put(seal(Pack.of([member for _, member in part]))))
        return pins, items._replace(stored=stored)


def publish(transport: Transport, sealing: Sealing, items: Items, replicas: int | None) -> None:
    """Put sealed values where they belong, and make them visible all at once or not at all."""
    wanted = transport.options.replicas or 1
    if replicas is not None:
        wanted = whole_number(replicas, "replicas", 1, backend="memory")
    ttl = None if items.ttl is None else seconds(items.ttl, "ttl")
    items = items._replace(facts=sealing.facts, replicas=wanted, ttl=ttl)
    with transport.measured("memory", "save"):
        if transport.options.max_bytes is not None and sealing.has_objects and not items.refills:
            transport.ask("check", items, path=items.paths[0])
        # A value that travels inside the call is held as often as the tree is.
        inline = wanted <= (transport.options.replicas or 1) and not items.refills
        try:
            transport.publish(*sealing.put(transport.put, items, inline=inline))
        except InlineFullError:
            transport.publish(*sealing.put(transport.put, items, inline=False))
    transport.moved("memory", "save", sum(size for size, _, _ in sealing.facts))


def _parts(members: Iterable[tuple[int, Member]]) -> list[list[tuple[int, Member]]]:
    """Return values in parts of about `_PACK` bytes, for one object each."""
    parts: list[list[tuple[int, Member]]] = []
    size = _PACK
    for i, member in members:
        if size >= _PACK:
            parts.append([])
            size = 0
        parts[-1].append((i, member))
        size += len(member) if isinstance(member, bytes) else member.nbytes
    return parts


def _facts(array: np.ndarray[Any, Any], known: Known) -> Facts | None:
    """Return the facts of an array that is its bytes, else None.

    Similar arrays share their facts, which travel once.
    """
    key = array.dtype, array.shape
    facts = known.get(key)
    if facts is None and is_raw(array):
        facts = known[key] = (array.nbytes, *shape_and_dtype(array))
    return facts


def array_bytes(values: Iterable[Any]) -> int:
    """Return the size in bytes of the arrays among values."""
    return sum(map(array_size, values))


def opened(
    found: Found,
    paths: Sequence[str],
    objects: Sequence[Any],
    again: Callable[[Pin], Any],
    loads: Callable[..., Any] = pickle.loads,
) -> list[Any]:
    """Return the values that were found; no two of them share a mutable object.

    - `found`: what is stored
    - `paths`: where they are stored, for errors
    - `objects`: what its pins lead to: values and packs
    - `again`: get the value of a pin once more
    - `loads`: opens the pickles of small values
    """
    values: list[Any] = [None] * len(found.stored)
    taken: set[int] = set()
    in_packs: dict[int, tuple[list[int], list[int]]] = {}
    for i, stored in enumerate(found.stored):
        if stored == NOTHING:
            continue
        if isinstance(stored, bytes):
            with located(paths[i], "memory"):
                values[i] = open_message(stored, loads)
            continue
        which, number = stored
        if number == WHOLE:
            shared = which in taken and not isinstance(objects[which], np.ndarray)
            values[i] = again(found.pins[which]) if shared else objects[which]
            taken.add(which)
        else:
            places, numbers = in_packs.setdefault(which, ([], []))
            places.append(i)
            numbers.append(number)
    for which, (places, numbers) in in_packs.items():
        try:
            members = objects[which].values(numbers, loads)
        except StorageError:  # of one of them: say which
            for i, number in zip(places, numbers, strict=True):
                with located(paths[i], "memory"):
                    objects[which].values([number], loads)
            raise
        for i, value in zip(places, members, strict=True):
            values[i] = value
    return values
